//! The main job from a DataFusion app: what changed in one Delta table, merged into another.
//!
//! Run it with `cargo run --example embed`.

use alluvial::sql::SessionContextExt;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("alluvial-embed-{}", std::process::id()));
    let ctx = SessionContext::new();
    ctx.register_alluvial()?;

    // our own statements go through alluvial_sql, which also runs DataFusion's
    let source = folder.join("source");
    let target = folder.join("target");
    for sql in [
        format!(
            "CREATE TABLE source (id BIGINT PRIMARY KEY, name STRING) LOCATION '{}'",
            source.display()
        ),
        "INSERT INTO source VALUES (1, 'ada'), (2, 'grace'), (3, 'edsger')".into(),
        format!(
            "CREATE TABLE target LOCATION '{}' AS SELECT * FROM source",
            target.display()
        ),
        "UPDATE source SET name = 'Ada' WHERE id = 1".into(),
        "DELETE FROM source WHERE id = 3".into(),
        "INSERT INTO source VALUES (4, 'barbara')".into(),
    ] {
        ctx.alluvial_sql(&sql).await?.collect().await?;
    }

    // plain ctx.sql() knows change reads and MERGE: the target holds version 1 of the source
    ctx.sql(
        "MERGE INTO target USING (
           SELECT * FROM table_changes('source', 1, net => true) WHERE _change_type <> 'update_preimage'
         ) AS changes ON target.id = changes.id
         WHEN MATCHED AND changes._change_type = 'delete' THEN DELETE
         WHEN MATCHED THEN UPDATE SET name = changes.name
         WHEN NOT MATCHED AND changes._change_type <> 'delete' THEN INSERT (id, name) VALUES (changes.id, changes.name)",
    )
    .await?
    .collect()
    .await?;
    ctx.sql("SELECT * FROM target ORDER BY id")
        .await?
        .show()
        .await?;

    std::fs::remove_dir_all(folder)?;
    Ok(())
}
