//! docs/messages.md is held to the code: each message of the programs and of the chart is there, and each that is there
//! is one of theirs.

// clippy.toml lets tests unwrap, and does not count their own helpers as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

/// What the programs are made of.
const CRATES: [&str; 6] = ["membership", "etcd", "hook", "webhook", "kubernetes", "operate"];
/// A text between two placeholders is held to the docs from so many words on; shorter ones are everywhere.
const WORDS: usize = 4;
/// Texts of the code that nobody is shown.
const NO_MESSAGES: [&str; 5] = [
    // The gRPC library's text, by which an answer is known that does not fit.
    "message length too large",
    // What is said before there is more to say, and never stays: there are tries, and members, and their keys are
    // compared one by one then.
    "no try was made",
    "no member to ask",
    "whether the members hold the same was not told",
    ", which is not confirmed",
];

/// A text without placeholders, its white space collapsed, and the file that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    file: String,
    text: String,
}

impl Piece {
    fn is_message(&self) -> bool {
        words(&self.text) >= WORDS && !NO_MESSAGES.contains(&self.text.as_str())
    }
}

/// Words of two letters or more.
fn words(text: &str) -> usize {
    text.split_whitespace().filter(|word| word.chars().filter(|c| c.is_alphabetic()).count() >= 2).count()
}

fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands outside of `open` … `close`.
fn outside<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let mut parts = text.split(open);
    let first = parts.next();
    first.into_iter().chain(parts.map(|part| part.split_once(close).map_or(part, |(_, behind)| behind))).collect()
}

fn after<'a>(text: &'a str, end: &str) -> &'a str {
    text.split_once(end).map_or("", |(_, behind)| behind)
}

/// Behind the first character.
fn behind_one(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

/// The string literals of a Rust file, but for those of its tests, comments and attributes; those of
/// `#[error(…)]` are messages.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = without_tests(source);
    while let Some(next) = rest.chars().next() {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        rest = if rest.starts_with("//") {
            after(rest, "\n")
        } else if rest.starts_with("/*") {
            after(rest, "*/")
        } else if let Some(behind) = behind_attribute(rest) {
            behind
        } else if let Some((text, behind)) = literal(rest) {
            found.push(text);
            behind
        } else if next == '\'' {
            behind_quote(rest)
        } else if in_word(next) {
            // As a whole: an r at its end begins no raw literal.
            rest.trim_start_matches(in_word)
        } else {
            behind_one(rest)
        };
    }
    found
}

fn without_tests(source: &str) -> &str {
    const LINE: &str = "#[cfg(test)]\n";
    let begins_tests =
        |at: &usize| source[at + LINE.len()..].lines().next().is_some_and(|line| line.ends_with("mod tests {"));
    source.match_indices(LINE).map(|(at, _)| at).find(begins_tests).map_or(source, |at| &source[..at])
}

/// Behind the attribute that this begins with, if it is one without a message.
fn behind_attribute(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix("#[").or_else(|| text.strip_prefix("#!["))?;
    if rest.starts_with("error(") {
        return None;
    }
    let mut depth = 1;
    while depth > 0 {
        if let Some((_, behind)) = literal(rest) {
            rest = behind;
            continue;
        }
        match rest.chars().next()? {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        rest = behind_one(rest);
    }
    Some(rest)
}

/// The string literal that this begins with, and what is behind it.
fn literal(text: &str) -> Option<(String, &str)> {
    if let Some(raw) = text.strip_prefix('r') {
        let quoted = raw.trim_start_matches('#');
        let end = format!("\"{}", "#".repeat(raw.len() - quoted.len()));
        let (text, behind) = quoted.strip_prefix('"')?.split_once(&end)?;
        return Some((text.to_owned(), behind));
    }
    let (mut found, mut rest) = (String::new(), text.strip_prefix('"')?);
    loop {
        let at = rest.find(['"', '\\'])?;
        found += &rest[..at];
        let behind = &rest[at + 1..];
        if rest[at..].starts_with('"') {
            return Some((found, behind));
        }
        rest = behind_one(behind);
        match behind.chars().next()? {
            '\n' => rest = rest.trim_start(),
            'n' | 'r' | 't' => found.push(' '),
            escaped => found.push(escaped),
        }
    }
}

/// Behind a character, or behind the quote of a lifetime.
fn behind_quote(text: &str) -> &str {
    let inner = behind_one(text);
    match inner.strip_prefix('\\') {
        Some(escaped) => after(behind_one(escaped), "'"),
        None => behind_one(inner).strip_prefix('\'').unwrap_or(inner),
    }
}

/// What of a literal is the same in each message: what stands between its placeholders.
fn pieces(literal: &str) -> Vec<String> {
    let (mut pieces, mut piece, mut rest) = (Vec::new(), String::new(), literal);
    while let Some(next) = rest.chars().next() {
        rest = behind_one(rest);
        match (next, rest.chars().next(), rest.split_once('}')) {
            ('{', Some('{'), _) | ('}', Some('}'), _) => {
                piece.push(next);
                rest = behind_one(rest);
            }
            ('{', _, Some((_, behind))) => {
                pieces.push(std::mem::take(&mut piece));
                rest = behind;
            }
            _ => piece.push(next),
        }
    }
    pieces.push(piece);
    pieces.iter().map(|piece| collapsed(piece)).filter(|piece| !piece.is_empty()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn name(file: &Path) -> String {
    file.strip_prefix(root()).unwrap().display().to_string()
}

/// Neither tests nor what only they are compiled with.
fn is_shipped(file: &str) -> bool {
    let only_tests = |name: &str| {
        ["tests", "documented", "explored", "fake_api"].contains(&name)
            || name.starts_with("failpoint")
            || name.starts_with("world")
    };
    file.ends_with(".rs")
        && !Path::new(file).iter().filter_map(OsStr::to_str).any(|part| only_tests(part.trim_end_matches(".rs")))
}

/// What the programs say.
fn code() -> Vec<Piece> {
    let files = CRATES.iter().flat_map(|name| files_below(&root().join(name).join("src")));
    let shipped = files.map(|path| (name(&path), path)).filter(|(file, _)| is_shipped(file));
    let of_file = |(file, path): (String, PathBuf)| {
        let all =
            literals(&read_to_string(path).unwrap()).iter().flat_map(|literal| pieces(literal)).collect::<Vec<_>>();
        all.into_iter().map(move |text| Piece { file: file.clone(), text })
    };
    shipped.flat_map(of_file).collect()
}

/// The chart's templates, whole; texts that an expression joins are one.
fn templates() -> Vec<Piece> {
    let read = |path: PathBuf| {
        let text = collapsed(&read_to_string(&path).unwrap()).replace("' + '", "");
        Piece { file: name(&path), text }
    };
    files_below(&root().join("chart/templates")).into_iter().map(read).collect()
}

/// What the chart fails with, and what its admission policy says.
fn chart(templates: &[Piece]) -> Vec<Piece> {
    let mut found = Vec::new();
    for Piece { file, text } in templates {
        let mut add = |text: &str| found.push(Piece { file: file.clone(), text: collapsed(text) });
        for begin in ["fail (printf \"", "fail \"", "required \""] {
            for message in text.split(begin).skip(1) {
                let quoted = format!("\"{message}");
                let (message, _) = literal(&quoted).unwrap();
                // %s, %d, %q
                let mut parts = message.split('%');
                add(parts.next().unwrap());
                parts.for_each(|part| add(behind_one(part)));
            }
        }
        for expression in text.split("messageExpression: >- ").skip(1) {
            let expression = expression.split(" ---").next().unwrap();
            let quoted = expression.split('\'').skip(1).step_by(2);
            quoted.flat_map(|text| outside(text, "{{", "}}")).for_each(&mut add);
        }
    }
    found
}

fn docs() -> String {
    read_to_string(root().join("docs/messages.md")).unwrap()
}

/// The messages that the docs lack.
fn undocumented(said: &[Piece], docs: &str) -> Vec<String> {
    let docs = collapsed(docs);
    let missing = said.iter().filter(|piece| piece.is_message() && !docs.contains(&piece.text));
    missing.map(|Piece { file, text }| format!("{file}: {text}")).collect()
}

/// The sentences of the docs' messages that are not made up of what is said.
fn outdated(docs: &str, code: &[Piece], templates: &[Piece]) -> Vec<String> {
    let items = docs.lines().filter(|line| line.starts_with("- "));
    let messages = items.flat_map(|item| item.split('`').skip(1).step_by(2));
    // Behind a colon comes the cause, which is another message.
    let sentences = messages
        .flat_map(|message| outside(message, "<", ">"))
        .flat_map(|part| part.split(". "))
        .map(|sentence| sentence.trim_matches(|c: char| c == ':' || c.is_whitespace()))
        .filter(|sentence| words(sentence) >= WORDS);
    let texts: BTreeSet<&str> = code.iter().map(|piece| piece.text.as_str()).collect();
    let is_said = |sentence: &&str| {
        texts.iter().any(|text| text.contains(*sentence))
            || templates.iter().any(|template| template.text.contains(*sentence))
            || is_joined(sentence, &texts)
    };
    sentences.filter(|sentence| !is_said(sentence)).map(str::to_owned).collect()
}

/// Each way to cut a text in two.
fn cuts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).map(|(at, _)| (text[..at].trim_end(), text[at..].trim_start()))
}

/// Whether a sentence is put together from texts: the end of one, others as a whole, the beginning of one.
fn is_joined(sentence: &str, texts: &BTreeSet<&str>) -> bool {
    cuts(sentence).any(|(head, tail)| goes_on(tail, texts) && texts.iter().any(|text| text.ends_with(head)))
}

fn goes_on(tail: &str, texts: &BTreeSet<&str>) -> bool {
    texts.range(tail..).next().is_some_and(|text| text.starts_with(tail))
        || cuts(tail).any(|(whole, rest)| texts.contains(whole) && words(whole) > 0 && goes_on(rest, texts))
}

#[test]
fn every_message_is_in_the_docs() {
    let (code, templates) = (code(), templates());
    for none in NO_MESSAGES {
        assert!(code.iter().any(|piece| piece.text == none), "no more in the code: {none}");
    }
    let missing = undocumented(&[code, chart(&templates)].concat(), &docs());
    assert!(missing.is_empty(), "not in docs/messages.md:\n{}", missing.join("\n"));
}

#[test]
fn every_message_of_the_docs_is_said() {
    let outdated = outdated(&docs(), &code(), &templates());
    assert!(
        outdated.is_empty(),
        "in docs/messages.md, and neither in the code nor in the chart:\n{}",
        outdated.join("\n")
    );
}

#[test]
fn literals_are_read_as_rust_reads_them() {
    let source = r####"
        //! "of the file"
        #![allow(dead_code, reason = "of an attribute [sic]")]
        // "of a comment" /* "of another" */
        #[arg(long, default_value = "of a flag", value_parser = ["of a list"])]
        #[error("of an error {0}")]
        fn f<'a>(text: &'a str) -> [char; 3] {
            let say = "with \"quotes\", a \\ and a\nline";
            let raw = r#"raw "quotes" and \n"#;
            let long = "one line \
                        in the source";
            for_r("after an r");
            /* "of a block" */
            ['"', '\'', '\\']
        }
        #[cfg(test)]
        use nothing;
#[cfg(test)]
pub(crate) mod tests {
    const OF: &str = "of a test";
}
"####;
    let expected = [
        "of an error {0}",
        "with \"quotes\", a \\ and a line",
        r#"raw "quotes" and \n"#,
        "one line in the source",
        "after an r",
    ];
    assert_eq!(literals(source), expected);
}

#[test]
fn placeholders_are_no_part_of_a_message() {
    assert_eq!(pieces("{pod} waits  {:.1} s for {{\"op\":[{}]}}"), ["waits", "s for {\"op\":[", "]}"]);
    assert_eq!(pieces("one { alone"), ["one { alone"]);
    assert_eq!(outside("a <b c> d <e>", "<", ">"), ["a ", " d ", ""]);
}

fn said(texts: &[&str]) -> Vec<Piece> {
    texts.iter().map(|text| Piece { file: "x.rs".into(), text: (*text).to_owned() }).collect()
}

#[test]
fn a_message_that_is_not_in_the_docs_is_found() {
    let docs = "- `<pod> has gone away for\n  good`";
    let code = said(&["has gone away for good", "has come back for good", "too short", NO_MESSAGES[0]]);
    assert_eq!(undocumented(&code, docs), ["x.rs: has come back for good"]);
}

#[test]
fn a_message_that_is_only_in_the_docs_is_found() {
    let code = said(&["is refused:", "it is too late for that. Come back tomorrow, and", "then ask somebody else"]);
    let outdated = |docs: &str| outdated(docs, &code, &said(&["{{ fail \"the chart does not like %s\" }}"]));
    let none: [&str; 0] = [];
    assert_eq!(outdated("- `<pod> is refused: it is too late for that. Come back tomorrow, and <why>`"), none);
    assert_eq!(outdated("- `it is too late for that. Come back tomorrow, and then ask somebody else`"), none);
    assert_eq!(outdated("- `the chart does not like <value>`"), none);
    assert_eq!(outdated("Not in an item: `whatever this may be about`"), none);
    assert_eq!(outdated("- `is refused: it is too early for that`"), ["is refused: it is too early for that"]);
    assert_eq!(
        outdated("- `Come back tomorrow, and never ask somebody`"),
        ["Come back tomorrow, and never ask somebody"]
    );
}

#[test]
fn what_the_chart_says_is_found() {
    let policy = "messageExpression: >- 'pod ' + name + ' is {{ .it }} and has no member' --- a: 'no'";
    let fail = r#"{{- fail (printf "name %q has \"%d\" characters" .a) }} {{ required "name the claim" .b }}"#;
    let found = chart(&said(&[policy, fail]));
    let texts: Vec<&str> = found.iter().map(|piece| piece.text.as_str()).collect();
    let expected = ["pod", "is", "and has no member", "name", "has \"", "\" characters", "name the claim"];
    assert_eq!(texts, expected);
}
