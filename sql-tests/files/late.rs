//! A change that comes after a newer one has been applied says nothing any more: neither its values nor its delete count for a
//! still newer change in the same run that lacks columns.

use libtest_mimic::Failed;

use super::landing::Landing;
use super::{Check, always};

pub(super) const CASES: &[(&str, Check)] = &[
    ("late-delete", |landing| {
        let applied = ["id,seq,name\n8,10,a\n"];
        let new = "id,seq,_change_request_type\n8,3,d\n8,15,u\n";
        Box::pin(always(check(
            landing,
            applied.to_vec(),
            vec![new],
            r#"[8,"a",15]"#,
        )))
    }),
    ("late-value", |landing| {
        let applied = ["id,seq,name\n7,12,z\n"];
        let new = ["id,seq,name\n7,11,a\n", "id,seq\n7,21\n"];
        Box::pin(always(check(
            landing,
            applied.to_vec(),
            new.to_vec(),
            r#"[7,"z",21]"#,
        )))
    }),
    ("late-value-before-null", |landing| {
        let applied = ["id,seq,name\n7,12,\n1,1,one\n"];
        let new = ["id,seq,name\n7,11,a\n", "id,seq\n7,21\n"];
        let expected = r#"[7,null,21]"#;
        Box::pin(always(check(
            landing,
            applied.to_vec(),
            new.to_vec(),
            expected,
        )))
    }),
    ("late-value-before-delete", |landing| {
        let applied = [
            "id,seq,name\n7,5,a\n",
            "id,seq,_change_request_type\n7,10,d\n",
        ];
        let new = ["id,seq,name\n7,4,x\n", "id,seq\n7,15\n"];
        let expected = r#"[7,null,15]"#;
        Box::pin(always(check(
            landing,
            applied.to_vec(),
            new.to_vec(),
            expected,
        )))
    }),
];

/// Lets files land, syncing after each of the first ones and once after all others; the newest row of the target and of the state
/// is `expected`.
async fn check(
    landing: Landing,
    applied: Vec<&'static str>,
    new: Vec<&'static str>,
    expected: &'static str,
) -> Result<(), Failed> {
    const SYNC: &str = "SYNC INTO target FROM landed";
    let mut number = 0;
    for text in applied {
        number += 1;
        landing.put(&format!("{number}.csv"), text)?;
        if number == 1 {
            landing.create("format 'csv', sequence 'seq'").await?;
        }
        landing.run(SYNC).await?;
    }
    for text in new {
        number += 1;
        landing.put(&format!("{number}.csv"), text)?;
    }
    landing.run(SYNC).await?;
    for table in ["landed", "target"] {
        let newest = format!("SELECT * FROM {table} ORDER BY seq DESC LIMIT 1");
        landing.check(&newest, &[expected]).await?;
    }
    Ok(())
}
