//! Commands in messages, and the scenarios that run them: `tests/ways_out.md`.

use crate::cluster::top;

/// A command, and who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// As it stands in docs/messages.md, with its placeholders.
    pub command: String,
    /// The scenario, `module::name`; none: these words are no advice.
    pub scenario: Option<String>,
    /// What in the scenario's file runs it; empty: the scenario takes it from the table.
    pub by: String,
}

/// The tables of this text.
#[must_use]
pub fn ways_out(document: &str) -> Vec<WayOut> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let quoted = |cell: Option<&str>| cell.map(|cell| cell.trim().trim_matches('`').to_owned()).unwrap_or_default();
    let row = |row: &str| {
        let (command, rest) = row.split_once("` |")?;
        let mut cells = rest.trim().trim_end_matches('|').split(" | ");
        let scenario = Some(quoted(cells.next())).filter(|it| !it.is_empty());
        Some(WayOut { command: command.to_owned(), scenario, by: quoted(cells.next()).trim_matches('|').to_owned() })
    };
    rows.filter_map(row).collect()
}

/// Those in the tree.
///
/// # Errors
/// When the file is not there.
pub fn of_the_tree() -> anyhow::Result<Vec<WayOut>> {
    Ok(ways_out(&std::fs::read_to_string(top().join("tests/ways_out.md"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let found = ways_out(
            "| command | run by |\n|---|---|\n| `a | b <c>` | `x::y` | `\"d\"` |\n| `e` | `x::y` | |\n| `f` |\n",
        );
        let expected = [("a | b <c>", Some("x::y"), "\"d\""), ("e", Some("x::y"), ""), ("f", None, "")];
        let found: Vec<_> =
            found.iter().map(|it| (it.command.as_str(), it.scenario.as_deref(), it.by.as_str())).collect();
        assert_eq!(found, expected);
    }
}
