//! The order of modules, as a test: a module uses only modules above it in `lib.rs`, and the files
//! of a folder do not import one another in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::workload::METRICS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files of a folder and below, and the file beside it that has its name.
fn files(module: &Path) -> Vec<PathBuf> {
    let mut files = vec![module.with_extension("rs")];
    let mut folders = vec![module.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => files.push(path),
                _ => {}
            }
        }
    }
    files.retain(|file| file.exists());
    files
}

#[test]
fn modules_use_only_modules_above_them() {
    let text = include_str!("lib.rs");
    let names = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let order: Vec<&str> = names.collect();
    assert!(order.len() > 5, "{order:?}");
    for (at, module) in order.iter().enumerate() {
        for file in files(&root().join("src").join(module)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//!"), "{}: say what it is for", file.display());
            for below in &order[at + 1..] {
                let path = format!("crate::{below}");
                let is_name = |c: char| c.is_alphanumeric() || c == '_';
                let used = text
                    .match_indices(&path)
                    .any(|(found, _)| !text[found + path.len()..].starts_with(is_name));
                assert!(!used, "{} uses {below}", file.display());
            }
        }
    }
}

/// The paths of a `use` declaration, one for each name: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in tree.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts
        .flat_map(|part| match part.split_once('{') {
            Some((start, rest)) => {
                let rest = expand(rest.strip_suffix('}').unwrap());
                rest.iter().map(|rest| format!("{start}{rest}")).collect()
            }
            None => vec![part.split(" as ").next().unwrap().to_owned()],
        })
        .collect()
}

/// What a file uses, without its comments and its module of tests.
fn used(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let before = text[..at].rsplit('\n').next().unwrap().trim();
        if !(before.is_empty() || before.starts_with("pub") && !before.contains(' ')) {
            continue; // Within a text.
        }
        paths.extend(text[at + 4..].split_once(';').map_or(Vec::new(), |(tree, _)| expand(tree)));
    }
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            paths.push(text[at..].split(|c| !is_path(c)).next().unwrap().to_owned());
        }
    }
    paths
}

/// Which of its files each file of a folder uses, by the file that defines a name.
fn edges(folder: &Path, source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let children: BTreeSet<String> =
        entries.filter(|path| path.is_file()).map(|path| stem(&path)).collect();
    let inside = folder.strip_prefix(source).unwrap();
    let parent: String =
        inside.iter().map(|name| format!("{}::", name.to_str().unwrap())).collect();
    let parent = format!("crate::{parent}");
    let of_parent =
        if folder == source { source.join("lib.rs") } else { folder.with_extension("rs") };
    // Names that the parent exports again, with the file that has them.
    let exported = used(&fs::read_to_string(of_parent).unwrap());
    let exported: BTreeMap<&str, &str> = exported
        .iter()
        .filter_map(|path| path.strip_prefix("self::").unwrap_or(path).split_once("::"))
        .filter(|(child, _)| children.contains(*child))
        .map(|(child, name)| (name.rsplit("::").next().unwrap(), child))
        .collect();
    let mut edges = BTreeMap::new();
    for child in children.iter().filter(|child| !child.contains("test")) {
        let mut uses = BTreeSet::new();
        let module = folder.join(child);
        for file in files(&module).iter().filter(|file| !stem(file).contains("test")) {
            let is_child = *file == module.with_extension("rs");
            for path in used(&fs::read_to_string(file).unwrap()) {
                let sibling = path
                    .strip_prefix(&parent)
                    .or_else(|| path.strip_prefix("super::").filter(|_| is_child));
                let Some(name) = sibling.and_then(|rest| rest.split("::").next()) else { continue };
                let file = exported.get(name).copied().unwrap_or(name);
                if children.contains(file) && file != child {
                    uses.insert(file.to_owned());
                }
            }
        }
        edges.insert(child.clone(), uses);
    }
    edges
}

#[test]
fn the_files_of_a_folder_do_not_use_one_another_in_a_circle() {
    let sources = ["src", "crates/kernel/src"].map(|source| root().join(source));
    let mut folders = sources.to_vec();
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let source = sources.iter().find(|source| folder.starts_with(source)).unwrap();
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        folders.extend(entries.filter(|path| path.is_dir() && path.with_extension("rs").exists()));
        if folder == sources[0] {
            continue; // The order in `lib.rs` says it for these.
        }
        let mut edges = edges(&folder, source);
        seen += edges.values().map(BTreeSet::len).sum::<usize>();
        // Files that use none of those left are in no circle.
        loop {
            let left: BTreeSet<String> = edges.keys().cloned().collect();
            edges.retain(|_, uses| uses.iter().any(|file| left.contains(file)));
            if edges.len() == left.len() {
                break;
            }
        }
        assert!(edges.is_empty(), "{}: a circle among {edges:?}", folder.display());
    }
    assert!(seen > 50, "only {seen} imports were found");
}

/// Names of metrics are constants of `workload::metric`, except in tests.
#[test]
fn no_literal_is_the_name_of_a_metric() {
    for file in files(&root().join("src")) {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let literal = |line: &str, name: &str| line.contains(&format!("\"{name}\""));
        let is_comment = |line: &str| line.trim_start().starts_with("//");
        for line in code.lines().filter(|line| !is_comment(line)) {
            let known = METRICS.iter().map(|metric| metric.name).find(|name| literal(line, name));
            let is_counter = path.ends_with("meter.rs") && known == Some("gpu_utilisation");
            let allowed = is_counter
                || ["metrics.rs", "test", "simulat"].iter().any(|part| path.contains(part));
            assert!(known.is_none() || allowed, "{path}: a constant for {line}");
        }
    }
}

/// Files that the documentation names in back-ticks exist.
#[test]
fn the_documentation_names_files_that_exist() {
    let mut pages =
        ["README.md", "CONTRIBUTING.md", "fixtures/README.md"].map(PathBuf::from).to_vec();
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let folders = ["src/", "crates/", "tests/", "ci/", "fixtures/", "benches/", "docs/"];
            let is_path = folders.iter().any(|folder| name.starts_with(folder))
                && !name.contains(|c: char| c.is_whitespace() || "<{*…".contains(c));
            if is_path {
                assert!(root().join(name).exists(), "{}: no `{name}`", page.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "only {seen} paths were found");
}
