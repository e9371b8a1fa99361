//! The main job from a DataFusion app: one Delta table kept equal to another.
//!
//! Run it with `cargo run --example embed`.
#![expect(clippy::print_stdout, reason = "an example shows what it has done")]

use alluvial::sql::SessionContextExt;
use alluvial::sync::Sync;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("alluvial-embed-{}", std::process::id()));
    let ctx = SessionContext::new();
    ctx.register_alluvial()?;

    // our own statements go through alluvial_sql, which also runs DataFusion's; the target is where no table is yet
    let source = folder.join("source");
    let target = folder.join("target");
    for sql in [
        format!(
            "CREATE TABLE source (id BIGINT PRIMARY KEY, name STRING) LOCATION '{}'",
            source.display()
        ),
        format!(
            "CREATE TABLE target (id BIGINT PRIMARY KEY, name STRING) LOCATION '{}'",
            target.display()
        ),
        "INSERT INTO source VALUES (1, 'ada'), (2, 'grace'), (3, 'edsger')".into(),
    ] {
        ctx.alluvial_sql(&sql).await?.collect().await?;
    }
    let sync = Sync::builder().target("target").source("source").build()?;
    let first = sync.run(&ctx).await?;
    println!("{}: {} rows inserted", first.mode, first.rows_inserted);

    // plain ctx.sql() knows UPDATE, DELETE, change reads and MERGE
    for sql in [
        "UPDATE source SET name = 'Ada' WHERE id = 1",
        "DELETE FROM source WHERE id = 3",
        "INSERT INTO source VALUES (4, 'barbara')",
    ] {
        ctx.sql(sql).await?.collect().await?;
    }
    let next = sync.run(&ctx).await?;
    println!(
        "{}: {} inserted, {} updated, {} deleted",
        next.mode, next.rows_inserted, next.rows_updated, next.rows_deleted
    );
    ctx.sql("SELECT * FROM target ORDER BY id")
        .await?
        .show()
        .await?;

    std::fs::remove_dir_all(folder)?;
    Ok(())
}
