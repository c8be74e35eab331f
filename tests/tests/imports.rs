//! The house is held to its plan (docs/architecture.md): who may import whom, no circles, few things at the front door.
//!
//! Read from the sources' own paths (`crate::…`, `super::…`, another crate's name), tests aside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Which crate may name which others of ours.
const CRATES: [(&str, &[&str]); 6] = [
    ("membership", &[]),
    ("etcd", &["membership"]),
    ("kubernetes", &["membership"]),
    ("operate", &["membership", "etcd", "kubernetes"]),
    ("hook", &["membership", "etcd", "kubernetes", "operate"]),
    ("webhook", &["membership", "etcd", "kubernetes", "operate"]),
];

/// Which room of a crate may import which other rooms of it; a crate that is not named has no rooms.
const ROOMS: [(&str, &str, &[&str]); 10] = [
    ("membership", "know", &[]),
    ("membership", "decide", &["know"]),
    ("membership", "write", &["know"]),
    ("hook", "main", &["cli"]),
    ("hook", "cli", &["commands", "run", "admit"]),
    ("hook", "commands", &["run", "checks"]),
    ("hook", "run", &["checks", "failpoint"]),
    ("hook", "checks", &[]),
    ("hook", "admit", &[]),
    ("hook", "failpoint", &[]),
];

/// At most so many entries in the sources of a program.
const ENTRIES: usize = 7;

type Module = Vec<String>;

/// A crate's modules and what each imports of its own crate and of others of ours.
#[derive(Default)]
struct House {
    /// With its source.
    modules: BTreeMap<Module, String>,
    within: BTreeMap<Module, BTreeSet<Module>>,
    others: BTreeMap<Module, BTreeSet<String>>,
}

#[test]
fn each_import_runs_as_the_plan_has_it() {
    let mut wrong = Vec::new();
    for (name, may) in CRATES {
        let house = House::read(&top().join(name).join("src")).unwrap();
        assert!(house.modules.len() > 3, "{name} has only {:?}", house.modules.keys());
        for (module, others) in &house.others {
            let not = others.iter().filter(|other| *other != name && !may.contains(&other.as_str()));
            wrong.extend(not.map(|other| format!("{name}: {} imports the crate {other}", module.join("::"))));
        }
        wrong.extend(house.against_rooms(name));
        wrong.extend(house.circles().into_iter().map(|circle| format!("{name}: a circle: {circle}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn few_things_lie_at_the_front_door() {
    for name in ["hook", "webhook"] {
        let entries: Vec<_> =
            fs::read_dir(top().join(name).join("src")).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(entries.len() <= ENTRIES, "{name}/src has {} entries: {entries:?}", entries.len());
    }
}

/// What would be wrong is found: by a made-up crate.
#[test]
fn a_forbidden_import_and_a_circle_are_found() {
    let sources = [
        ("lib.rs", "pub mod know; pub mod decide;"),
        ("know.rs", "use crate::decide::guard::Room;\npub mod names;"),
        ("know/names.rs", "use super::Target;"),
        ("decide.rs", "pub mod guard;"),
        (
            "decide/guard.rs",
            "use crate::know::names::Ordinal;\nuse kubernetes::lease::Lease;\n#[cfg(test)]\nmod tests { use etcd::Member; }",
        ),
        ("decide/a.rs", "use super::b::B;"),
        ("decide/b.rs", "use crate::decide::a::{A, C};"),
    ];
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("know")).unwrap();
    fs::create_dir_all(dir.path().join("decide")).unwrap();
    for (file, text) in sources {
        fs::write(dir.path().join(file), text).unwrap();
    }
    let house = House::read(dir.path()).unwrap();
    assert_eq!(house.against_rooms("membership"), ["membership: know imports decide::guard"]);
    assert_eq!(house.others[&module("decide::guard")], BTreeSet::from(["kubernetes".to_owned()]));
    let circles = house.circles();
    assert!(circles.iter().any(|it| it == "decide::a, decide::b"), "{circles:?}");
    assert!(circles.iter().all(|it| it != "know, know::names"), "parent and child: {circles:?}");
}

impl House {
    fn read(src: &Path) -> io::Result<Self> {
        let mut house = Self::default();
        house.add(src, &[])?;
        house = house.without_tests();
        let known: BTreeSet<Module> = house.modules.keys().cloned().collect();
        for (module, text) in house.modules.clone() {
            for path in paths(without_tests(&text)) {
                match absolute(&module, &path) {
                    Some(path) => {
                        let its = (1..=path.len()).rev().map(|end| path[..end].to_vec()).find(|it| known.contains(it));
                        if let Some(its) = its.filter(|its| *its != module) {
                            house.within.entry(module.clone()).or_default().insert(its);
                        }
                    }
                    None => {
                        let other = path.first().filter(|it| CRATES.iter().any(|(name, _)| name == it)).cloned();
                        house.others.entry(module.clone()).or_default().extend(other);
                    }
                }
            }
        }
        Ok(house)
    }

    fn add(&mut self, dir: &Path, above: &[String]) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?.path();
            let stem = entry.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let own = [above, std::slice::from_ref(&stem)].concat();
            if entry.is_dir() {
                self.add(&entry, &own)?;
            } else if entry.extension().is_some_and(|it| it == "rs") && stem != "tests" {
                let module = if stem == "mod" { above.to_vec() } else { own };
                self.modules.insert(module, fs::read_to_string(entry)?);
            }
        }
        Ok(())
    }

    /// Takes out what is compiled for tests only, with all below it.
    fn without_tests(mut self) -> Self {
        let root = || ["lib", "main"].iter().find_map(|it| self.modules.get(&module(it)));
        let text = |module: &[String]| if module.is_empty() { root() } else { self.modules.get(module) };
        let for_tests = |module: &Module| {
            let declared = |end: usize| text(&module[..end - 1]).is_some_and(|it| is_for_tests(it, &module[end - 1]));
            (1..=module.len()).any(declared)
        };
        let gone: Vec<Module> = self.modules.keys().filter(|module| for_tests(module)).cloned().collect();
        gone.iter().for_each(|module| drop(self.modules.remove(module)));
        self
    }

    fn against_rooms(&self, name: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (module, imports) in &self.within {
            let Some((_, room, may)) = ROOMS.iter().find(|(of, room, _)| *of == name && *room == module[0]) else {
                continue;
            };
            let not = imports.iter().filter(|it| it[0] != *room && !may.contains(&it[0].as_str()));
            wrong.extend(not.map(|it| format!("{name}: {} imports {}", module.join("::"), it.join("::"))));
        }
        wrong
    }

    /// Modules that reach each other, but for a parent and its children: each set once.
    fn circles(&self) -> BTreeSet<String> {
        let related = |one: &Module, other: &Module| one.starts_with(other) || other.starts_with(one);
        let next = |module: &Module| {
            let imports = self.within.get(module).into_iter().flatten();
            imports.filter(|other| !related(module, other)).cloned().collect::<Vec<_>>()
        };
        let reached = |from: &Module| {
            let (mut seen, mut left) = (BTreeSet::new(), next(from));
            while let Some(module) = left.pop() {
                if seen.insert(module.clone()) {
                    left.extend(next(&module));
                }
            }
            seen
        };
        let reach: BTreeMap<&Module, BTreeSet<Module>> = self.modules.keys().map(|it| (it, reached(it))).collect();
        let mut circles = BTreeSet::new();
        for (module, seen) in &reach {
            let circle: Vec<String> = reach
                .iter()
                .filter(|(other, its)| seen.contains(**other) && its.contains(*module))
                .map(|(other, _)| other.join("::"))
                .collect();
            if circle.len() > 1 {
                circles.insert(circle.join(", "));
            }
        }
        circles
    }
}

/// A path as it stands in a crate: of `crate::` and `super::` from its root, `None` for another crate's.
fn absolute(module: &[String], path: &[String]) -> Option<Module> {
    match path.first().map(String::as_str) {
        Some("crate") => Some(path[1..].to_vec()),
        Some("super") => {
            let up = path.iter().take_while(|it| *it == "super").count();
            Some([&module[..module.len().saturating_sub(up)], &path[up..]].concat())
        }
        _ => None,
    }
}

/// Every path in a text that begins with `crate`, `super` or a crate of ours, those of a group one by one; comments aside.
fn paths(text: &str) -> Vec<Module> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let begins = ["crate", "super"].into_iter().chain(CRATES.iter().map(|(name, _)| *name));
    let mut found = Vec::new();
    for begin in begins {
        for (at, _) in code.match_indices(&format!("{begin}::")) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|it| it.is_alphanumeric() || it == '_' || it == ':') {
                continue;
            }
            follow(&code[at..], &[], &mut found);
        }
    }
    found
}

/// Follows one path, into its groups.
fn follow(code: &str, above: &[String], found: &mut Vec<Module>) {
    let (mut path, mut rest) = (above.to_vec(), code);
    loop {
        let end = rest.find(|it: char| !(it.is_alphanumeric() || it == '_')).unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(behind) if end > 0 => rest = behind,
            _ => break,
        }
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut from = 0;
            for (at, it) in group.char_indices() {
                match it {
                    '{' => depth += 1,
                    ',' if depth == 0 => {
                        follow(group[from..at].trim(), &path, found);
                        from = at + 1;
                    }
                    '}' if depth == 0 => {
                        follow(group[from..at].trim(), &path, found);
                        return;
                    }
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            return;
        }
    }
    found.push(path);
}

/// A source up to its tests.
fn without_tests(text: &str) -> &str {
    let tests = ["mod tests {", "pub mod tests {", "pub(crate) mod tests {"];
    let end = tests.iter().filter_map(|it| text.find(&format!("#[cfg(test)]\n{it}"))).min().unwrap_or(text.len());
    &text[..end]
}

/// Whether the module that declares it has it for tests only.
fn is_for_tests(declares: &str, module: &str) -> bool {
    let only = ["#[cfg(test)]", "#[cfg(any(test, feature = \"world\"))]"];
    let visible = ["", "pub ", "pub(crate) "];
    only.iter().any(|only| visible.iter().any(|pub_| declares.contains(&format!("{only}\n{pub_}mod {module};"))))
}

fn module(path: &str) -> Module {
    path.split("::").map(str::to_owned).collect()
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
