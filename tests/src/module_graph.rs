//! Which file of a crate uses items of which other file, for `tidy`. A name that a module re-exports counts as a use of the file that
//! defines the item. An approximation: it follows imports and paths, not methods of values. The rules of `tidy` call it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::repository::Repository;
use crate::rust_source::{self, Import, PathUse};

/// Longest chain of re-exports that is followed, so that a chain that leads to itself ends.
const MAX_CHAIN: usize = 16;

/// A use of an item in another file of the same crate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: String,
    pub to: String,
    /// Line of the first such use.
    pub line: usize,
}

/// The uses within one crate.
#[derive(Debug)]
pub struct Graph {
    /// Directory of the crate's root file, with a slash at the end.
    pub directory: String,
    pub edges: Vec<Edge>,
}

/// What one file says.
struct Module<'a> {
    file: &'a str,
    imports: Vec<Import>,
    paths: Vec<PathUse>,
    definitions: Vec<String>,
}

/// The modules of one crate by their path from its root.
struct Crate<'a> {
    directory: &'a str,
    modules: HashMap<Vec<String>, Module<'a>>,
}

/// What a path leads to.
enum Resolved<'a> {
    Module(Vec<String>),
    /// The file that defines an item.
    Item(&'a str),
}

/// Returns a graph for each crate: libraries, programs without a library, and tests with a `main.rs`.
pub fn graphs(repository: &Repository) -> Vec<Graph> {
    let files: BTreeMap<&str, &str> = repository.rust().collect();
    let directory = |path: &'static str| {
        let roots = files.keys().copied().filter_map(move |file| file.strip_suffix(path));
        roots.filter(|directory| directory.ends_with('/'))
    };
    let roots: BTreeSet<&str> = directory("lib.rs").chain(directory("main.rs")).collect();
    roots
        .into_iter()
        .map(|root| Crate::read(root, &files).graph())
        .collect()
}

impl<'a> Crate<'a> {
    fn read(directory: &'a str, files: &BTreeMap<&'a str, &'a str>) -> Self {
        let has_library = files.contains_key(format!("{directory}lib.rs").as_str());
        let mut modules = HashMap::new();
        for (file, text) in files {
            let Some(name) = file.strip_prefix(directory).and_then(|name| name.strip_suffix(".rs")) else {
                continue;
            };
            // Programs beside a library are crates of their own; unit tests may use everything.
            if name.starts_with("bin/") || name == "main" && has_library || name.ends_with("/tests") || name == "tests"
            {
                continue;
            }
            let mut path: Vec<String> = name.split('/').map(str::to_owned).collect();
            if matches!(name, "lib" | "main") || path.last().is_some_and(|last| last == "mod") {
                path.pop();
            }
            let code = rust_source::without_tests(&rust_source::code(text));
            let (imports, rest) = rust_source::imports(&code);
            let module = Module {
                file,
                imports,
                paths: rust_source::paths(&rest),
                definitions: rust_source::definitions(&rest),
            };
            modules.insert(path, module);
        }
        Self { directory, modules }
    }

    fn graph(&self) -> Graph {
        let mut edges: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (path, module) in &self.modules {
            let is_face = module.file.ends_with("/mod.rs") || path.is_empty();
            let own = &module.file[..module.file.rfind('/').map_or(0, |slash| slash + 1)];
            let imports = module
                .imports
                .iter()
                .map(|import| (&import.path, import.line, import.is_public));
            let paths = module.paths.iter().map(|path| (&path.path, path.line, false));
            for (used, line, is_public) in imports.chain(paths) {
                let Some(file) = self.item(path, used) else { continue };
                // A module that shows an item of a child does not use it.
                if file == module.file || is_public && is_face && file.starts_with(own) {
                    continue;
                }
                let first = edges.entry((module.file, file)).or_insert(line);
                *first = line.min(*first);
            }
        }
        let edge = |((from, to), line): ((&str, &str), usize)| Edge {
            from: from.to_owned(),
            to: to.to_owned(),
            line,
        };
        Graph {
            directory: self.directory.to_owned(),
            edges: edges.into_iter().map(edge).collect(),
        }
    }

    /// Returns the file whose item `used` names in module `at`; `None` if the path names a module or leads out of the crate.
    fn item(&self, at: &[String], used: &[String]) -> Option<&'a str> {
        if let [modules @ .., last] = used
            && last == "*"
        {
            return match self.resolve(at, modules, 0)? {
                Resolved::Module(module) => Some(self.modules.get(&module)?.file),
                Resolved::Item(file) => Some(file),
            };
        }
        match self.resolve(at, used, 0)? {
            Resolved::Module(_) => None,
            Resolved::Item(file) => Some(file),
        }
    }

    /// Follows a path as written in module `at`; `None` if it leads out of the crate.
    fn resolve(&self, at: &[String], used: &[String], chain: usize) -> Option<Resolved<'a>> {
        let (first, rest) = used.split_first()?;
        match first.as_str() {
            "crate" => return self.descend(Vec::new(), rest, chain),
            "self" => return self.descend(at.to_vec(), rest, chain),
            "super" => {
                let (_, parent) = at.split_last()?;
                if rest.is_empty() {
                    return Some(Resolved::Module(parent.to_vec()));
                }
                return match rest[0].as_str() {
                    "super" => self.resolve(parent, rest, chain),
                    _ => self.descend(parent.to_vec(), rest, chain),
                };
            }
            _ => {}
        }
        let module = self.modules.get(at)?;
        let is_child = self.modules.contains_key(&[at, std::slice::from_ref(first)].concat());
        let is_bound = module.imports.iter().any(|import| import.name == *first);
        (is_child || is_bound).then(|| self.descend(at.to_vec(), used, chain))?
    }

    /// Follows `rest` down from module `at`, through re-exports.
    fn descend(&self, mut at: Vec<String>, rest: &[String], chain: usize) -> Option<Resolved<'a>> {
        if chain > MAX_CHAIN {
            return None;
        }
        for (index, name) in rest.iter().enumerate() {
            let module = self.modules.get(&at)?;
            let child = [&at[..], std::slice::from_ref(name)].concat();
            let is_child = self.modules.contains_key(&child);
            // A module and a function may have the same name: the last segment means the function.
            if let Some(import) = module.imports.iter().find(|import| import.name == *name)
                && (!is_child || index + 1 == rest.len())
            {
                match self.resolve(&at, &import.path, chain + 1) {
                    Some(item @ Resolved::Item(_)) => return Some(item),
                    Some(Resolved::Module(module)) if !is_child => at = module,
                    _ if is_child => at = child,
                    _ => return None,
                }
                continue;
            }
            if is_child {
                at = child;
                continue;
            }
            let is_here = module.definitions.contains(name);
            let from_glob = || self.source_of_glob(&at, module, name, chain);
            return Some(Resolved::Item(
                if is_here { None } else { from_glob() }.unwrap_or(module.file),
            ));
        }
        Some(Resolved::Module(at))
    }

    /// Returns the file that defines `name`, if a glob import of `module` brings it.
    fn source_of_glob(&self, at: &[String], module: &Module<'a>, name: &String, chain: usize) -> Option<&'a str> {
        let globs = module.imports.iter().filter(|import| import.name == "*");
        let mut sources = globs.filter_map(|import| {
            let (_, modules) = import.path.split_last()?;
            match self.resolve(at, modules, chain + 1)? {
                Resolved::Module(source) => self
                    .modules
                    .get(&source)
                    .filter(|source| source.definitions.contains(name)),
                Resolved::Item(_) => None,
            }
        });
        sources.next().map(|source| source.file)
    }
}

impl Graph {
    /// Returns the uses that are part of a circle, and its directory. Each directory is looked at as a graph of its files and folders.
    pub fn circles(&self) -> Vec<(String, &Edge)> {
        let mut levels: BTreeMap<&str, Vec<(&str, &str, &Edge)>> = BTreeMap::new();
        for edge in &self.edges {
            let (directory, from, to) = diverging_names(&edge.from, &edge.to);
            levels.entry(directory).or_default().push((from, to, edge));
        }
        let mut circles = Vec::new();
        for (directory, edges) in levels {
            let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (from, to, _) in &edges {
                uses.entry(from).or_default().insert(to);
            }
            let part = edges.iter().filter(|(from, to, _)| reaches(&uses, to, from));
            circles.extend(part.map(|(.., edge)| (directory.to_owned(), *edge)));
        }
        circles
    }
}

/// Returns the deepest directory that holds both files, and the name in it that leads to each.
pub fn diverging_names<'a>(one: &'a str, other: &'a str) -> (&'a str, &'a str, &'a str) {
    let common = one
        .bytes()
        .zip(other.bytes())
        .take_while(|(one, other)| one == other)
        .count();
    let start = one[..common].rfind('/').map_or(0, |slash| slash + 1);
    let name = |path: &'a str| path[start..].split('/').next().unwrap_or_default();
    (&one[..start], name(one), name(other))
}

/// Tells whether `from` uses `to`, be it through others.
fn reaches(uses: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let (mut seen, mut stack) = (BTreeSet::new(), vec![from]);
    while let Some(node) = stack.pop() {
        if node == to {
            return true;
        }
        if seen.insert(node) {
            stack.extend(uses.get(node).into_iter().flatten());
        }
    }
    false
}
