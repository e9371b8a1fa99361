//! The SQL that users copy: README.md and the scripts in `examples`.
//!
//! Trial `readme` runs every block fenced as `sql` in README.md, in order, in one session on a fresh warehouse, so each may
//! build on those before it. Blocks fenced as `sql ignore` need something that a test has not, such as a cloud account.
//! Where a block is followed by one fenced as `text`, that text is what its last statement prints. Each trial
//! `examples/<file>.sql` runs that file in a fresh warehouse.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use alluvial::sql::split_statements;
use arrow::util::display::array_value_to_string;
use arrow::util::pretty::pretty_format_batches_with_schema;
use libtest_mimic::{Failed, Trial};

use crate::patience;
use crate::{Answer, Warehouse, package};

/// The example that ends with a proof: its last query returns one row in which every column is zero or true.
const QUICKSTART: &str = "quickstart.sql";

pub(crate) fn trials() -> io::Result<Vec<Trial>> {
    let mut trials = vec![patience::test("readme", || {
        run_readme(&package().join("README.md"))
    })];
    let mut examples = Vec::new();
    for entry in fs::read_dir(package().join("examples"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            examples.push(path);
        }
    }
    examples.sort();
    if !examples.iter().any(|example| example.ends_with(QUICKSTART)) {
        return Err(io::Error::other("examples/quickstart.sql is missing"));
    }
    trials.extend(examples.into_iter().map(|path| {
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        patience::test(format!("examples/{file}"), move || {
            run_example(&path, file == QUICKSTART)
        })
    }));
    Ok(trials)
}

fn run_readme(path: &Path) -> Result<(), Failed> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let blocks = fenced_blocks(&text);
    let warehouse = Warehouse::new()?;
    for (index, block) in blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| block.fence == "sql")
    {
        let place = |error: Failed| at(block.line, &error);
        let answer = run_all(&warehouse, &block.body).map_err(place)?;
        let output = blocks
            .get(index + 1)
            .filter(|next| next.fence == "text" && next.follows);
        if let Some(output) = output {
            same_output(answer.as_ref(), &output.body).map_err(|error| at(output.line, &error))?;
        }
    }
    Ok(())
}

fn run_example(path: &Path, proves: bool) -> Result<(), Failed> {
    let warehouse = Warehouse::new()?;
    match run_all(&warehouse, &fs::read_to_string(path)?)? {
        Some(answer) if proves => all_zero_or_true(&answer),
        _ => Ok(()),
    }
}

/// Runs the statements of a script; what the last of them returned.
fn run_all(warehouse: &Warehouse, script: &str) -> Result<Option<Answer>, Failed> {
    let mut last = None;
    for statement in split_statements(script)? {
        let failed = |error| format!("{error}\n[SQL] {}", statement.text);
        last = Some(warehouse.run(statement.text).map_err(failed)?);
    }
    Ok(last)
}

fn same_output(answer: Option<&Answer>, expected: &str) -> Result<(), Failed> {
    let printed = match answer {
        Some(answer) => printed(answer)?,
        None => String::new(),
    };
    if trimmed(&printed) == trimmed(expected) {
        return Ok(());
    }
    Err(format!("the README shows\n{expected}\nbut the statement prints\n{printed}").into())
}

fn printed(answer: &Answer) -> Result<String, Failed> {
    let table = pretty_format_batches_with_schema(Arc::clone(&answer.schema), &answer.batches)?;
    Ok(table.to_string())
}

fn trimmed(text: &str) -> Vec<&str> {
    text.trim_end().lines().map(str::trim_end).collect()
}

fn all_zero_or_true(answer: &Answer) -> Result<(), Failed> {
    let mut values = Vec::new();
    for batch in &answer.batches {
        for column in batch.columns() {
            for row in 0..batch.num_rows() {
                values.push(array_value_to_string(column, row)?);
            }
        }
    }
    let holds = values
        .iter()
        .all(|value| ["0", "0.0", "true"].contains(&value.as_str()));
    if answer.row_count() == 1 && holds {
        return Ok(());
    }
    let printed = printed(answer)?;
    Err(format!("the last query must return one row of zeros and trues, not\n{printed}").into())
}

fn at(line: usize, error: &Failed) -> Failed {
    format!("README.md:{line}: {}", error.message().unwrap_or_default()).into()
}

/// A fenced block of a Markdown text.
struct Block {
    /// What stands after the backticks that open it.
    fence: String,
    /// The line of those backticks, from 1.
    line: usize,
    /// Whether only blank lines lie between it and the block before it.
    follows: bool,
    body: String,
}

fn fenced_blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut inside, mut follows) = (false, false);
    for (index, line) in text.lines().enumerate() {
        match (
            inside,
            line.trim_start().strip_prefix("```"),
            blocks.last_mut(),
        ) {
            (true, Some(_), _) => (inside, follows) = (false, true),
            (true, None, Some(block)) => block.body.extend([line, "\n"]),
            (false, Some(fence), _) => {
                let fence = fence.trim().to_owned();
                blocks.push(Block {
                    fence,
                    line: index + 1,
                    follows,
                    body: String::new(),
                });
                inside = true;
            }
            _ => follows &= line.trim().is_empty(),
        }
    }
    blocks
}
