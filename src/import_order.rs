//! Imports run downhill: a module imports what stands above it in the list of `lib.rs`, and inside a folder no two
//! files import each other, directly or in a circle.
//!
//! The sources are scanned as text, without a parser of Rust. What counts as an import is every path that begins with
//! `crate`, `super` or `self`, in a `use` or anywhere else. A name that a parent re-exports from its child counts as
//! the child's. Comments, inline test modules and files of tests are left out: tests may look wherever they like.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module by its path below the crate, such as `["queue", "jobs"]`.
type Module = Vec<String>;

/// The modules of the crate.
struct Sources {
    code: BTreeMap<Module, String>,
    /// By module and name: the child that a re-exported name comes from.
    exports: BTreeMap<(Module, String), Module>,
}

/// An import, with the path that is written there.
struct Import {
    from: Module,
    to: Module,
    path: String,
}

impl Sources {
    fn read() -> Self {
        let mut code = BTreeMap::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[], &mut code);
        Self::of(code)
    }

    fn of(code: BTreeMap<Module, String>) -> Self {
        let mut exports = BTreeMap::new();
        for (module, text) in &code {
            for path in exported(text) {
                let full = join(module, path.strip_prefix(&["self"]).unwrap_or(&path));
                let child = known(&code, &full);
                if child.len() > module.len()
                    && let Some(name) = path.last()
                {
                    exports.insert((module.clone(), (*name).to_owned()), child);
                }
            }
        }
        Self { code, exports }
    }

    fn imports(&self) -> impl Iterator<Item = Import> {
        self.code.iter().flat_map(|(from, text)| {
            imported(text).into_iter().map(|path| {
                let to = self.resolve(from, &path);
                Import { from: from.clone(), to, path: path.join("::") }
            })
        })
    }

    /// The module that a path in the module `from` leads to.
    fn resolve(&self, from: &Module, path: &[&str]) -> Module {
        let (mut base, mut rest) = match path {
            ["crate", rest @ ..] => (&[][..], rest),
            ["self", rest @ ..] => (&from[..], rest),
            _ => (&from[..], path),
        };
        while let ["super", further @ ..] = rest {
            (base, rest) = (&base[..base.len().saturating_sub(1)], further);
        }
        let full = join(base, rest);
        let mut module = known(&self.code, &full);
        let mut names = full[module.len()..].iter();
        while let Some(child) =
            names.next().and_then(|name| self.exports.get(&(module.clone(), name.clone())))
        {
            module = child.clone();
        }
        module
    }
}

fn join(base: &[String], rest: &[&str]) -> Module {
    base.iter().cloned().chain(rest.iter().map(|name| (*name).to_owned())).collect()
}

/// The longest beginning of a path that is a module.
fn known(code: &BTreeMap<Module, String>, path: &[String]) -> Module {
    let lengths = (0..=path.len()).rev();
    lengths.map(|length| path[..length].to_vec()).find(|module| code.contains_key(module)).unwrap_or_default()
}

/// Reads the modules below `folder`, whose own module is `parent`.
fn collect(folder: &Path, parent: &[String], code: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if matches!(name.as_str(), "tests" | "main" | "import_order") {
            continue;
        }
        let module = if matches!(name.as_str(), "mod" | "lib") { Vec::new() } else { vec![name] };
        let module = [parent, &module].concat();
        if path.is_dir() {
            collect(&path, &module, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.insert(module, without_tests(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The text without lines that are comments, and without the module of tests at its end.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut is_marked = false;
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        if is_marked && line.contains("mod ") && line.ends_with('{') {
            break;
        }
        is_marked = line == "#[cfg(test)]";
        code.push_str(line);
        code.push('\n');
    }
    code
}

/// Every path that begins with `crate`, `super` or `self`.
fn imported(code: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let is_inside = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !is_inside {
                read_paths(&code[at..], Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Every path that is re-exported, as it is written.
fn exported(code: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(" use ") {
        let line = &code[code[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        if line.trim_start().starts_with("pub") {
            read_paths(&code[at + " use ".len()..], Vec::new(), &mut found);
        }
    }
    found
}

/// Reads a path, with all that stands in its braces; returns what follows.
fn read_paths<'a>(mut text: &'a str, mut path: Vec<&'a str>, found: &mut Vec<Vec<&'a str>>) -> &'a str {
    loop {
        text = text.trim_start();
        if let Some(group) = text.strip_prefix('{') {
            return read_group(group, &path, found);
        }
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, after) = text.split_at(end);
        path.extend((!name.is_empty() && (name != "self" || path.is_empty())).then_some(name));
        match after.strip_prefix("::") {
            Some(rest) if !name.is_empty() => text = rest,
            _ => {
                found.push(path);
                return after;
            }
        }
    }
}

fn read_group<'a>(mut text: &'a str, path: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> &'a str {
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return text;
        }
        if let Some(after) = text.strip_prefix('}') {
            return after;
        }
        let after = read_paths(text, path.to_vec(), found);
        // Over the new name of an `as`.
        text = after.trim_start_matches(|c| c != ',' && c != '}');
        text = text.strip_prefix(',').unwrap_or(text);
    }
}

/// Edges between the children of one module, each with the imports that make it.
type Graph = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The graph of each folder.
fn folders(imports: impl Iterator<Item = Import>) -> BTreeMap<Module, Graph> {
    let mut folders: BTreeMap<Module, Graph> = BTreeMap::new();
    for Import { from, to, path } in imports {
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        if let (Some(child), Some(other)) = (from.get(common), to.get(common)) {
            let edges = folders.entry(from[..common].to_vec()).or_default();
            let imports = edges.entry(child.clone()).or_default().entry(other.clone()).or_default();
            imports.insert(format!("{} has {path}", from.join("::")));
        }
    }
    folders
}

/// A way from `at` back to `start`.
fn circle<'a>(
    graph: &'a Graph,
    start: &str,
    at: &'a str,
    seen: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    for (next, imports) in graph.get(at)? {
        let why = imports.iter().next().map_or("", String::as_str);
        if next == start {
            return Some(vec![why]);
        }
        if seen.insert(next)
            && let Some(rest) = circle(graph, start, next, seen)
        {
            return Some([&[why], &rest[..]].concat());
        }
    }
    None
}

fn circles(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    // Of the crate itself, the list of `lib.rs` says more.
    for (folder, graph) in folders(sources.imports()).iter().filter(|(folder, _)| !folder.is_empty()) {
        for child in graph.keys() {
            if let Some(way) = circle(graph, child, child, &mut BTreeSet::new()) {
                found.push(format!("{}::{child}: {}", folder.join("::"), way.join("; ")));
            }
        }
    }
    found
}

#[test]
fn files_of_one_folder_do_not_import_each_other_in_a_circle() {
    let sources = Sources::read();
    assert!(sources.code.len() > 200 && sources.imports().count() > 1000, "the sources are not found");
    assert_eq!(circles(&sources), Vec::<String>::new());
}

#[test]
fn modules_import_only_what_stands_above_them_in_the_list() {
    let text = include_str!("lib.rs");
    // Names of modules that are not public are not links.
    let rows = text.lines().filter_map(|line| Some(line.strip_prefix("//! | ")?.split_once(" |")?.0));
    let rows = rows.filter_map(|name| name.trim_matches(['[', ']']).strip_prefix('`')?.strip_suffix('`'));
    let rows: Vec<Module> = rows.map(|name| name.split("::").map(str::to_owned).collect()).collect();
    let place = |module: &Module| {
        let rows = rows.iter().enumerate().filter(|(_, row)| module.starts_with(row));
        rows.max_by_key(|(_, row)| row.len()).map(|(place, _)| place)
    };
    let is_of = |module: &Module, name: &str| module.first().is_some_and(|first| first == name);
    for Import { from, to, path } in Sources::read().imports() {
        if from.is_empty() || to.is_empty() {
            continue;
        }
        let wrong = format!("{} has {path}", from.join("::"));
        assert!(place(&from).is_some(), "{wrong}, and is not in the list of lib.rs");
        assert!(place(&to).is_some(), "{wrong}, which is not in the list of lib.rs");
        assert!(place(&to) <= place(&from), "{wrong}, which stands below it in the list of lib.rs");
        assert!(!(is_of(&from, "api") && is_of(&to, "controller")), "{wrong}");
    }
}

#[test]
fn circle_through_a_nested_file_and_a_re_export_is_found() {
    let sources = |jobs: &str| {
        let files = [
            ("queue", "pub mod jobs;\nmod codec;\npub(super) use codec::Reply;\n"),
            ("queue::jobs", "mod claim;\n"),
            ("queue::jobs::claim", jobs),
            ("queue::codec", "use super::{other,\n    jobs::{self, Claim as Mine}};\n"),
        ];
        let module = |name: &str| name.split("::").map(str::to_owned).collect();
        Sources::of(files.into_iter().map(|(name, text)| (module(name), without_tests(text))).collect())
    };
    for jobs in [
        "use super::super::Reply;\n",
        "use super::super::codec::Reply;\n",
        "fn a() { crate::queue::codec::read() }\n",
    ] {
        assert_eq!(circles(&sources(jobs)).len(), 2, "{jobs}");
    }
    for jobs in [
        "// use super::super::Reply;\n",
        "use super::super::Another;\n",
        "#[cfg(test)]\nmod tests {\n    use super::super::super::Reply;\n}\n",
    ] {
        assert_eq!(circles(&sources(jobs)), Vec::<String>::new(), "{jobs}");
    }
}
