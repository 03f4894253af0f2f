//! Kubeconfigs as client-go's `tools/clientcmd` loads them: from one file, from a list of files, from data, or none. Its messages say what is
//! wrong with a file without quoting it, because kubeconfigs hold secrets. `settings` and `identity` call it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Failure, Kind};
use crate::pod::flags::Flags;
use crate::protocol::target::Target;

/// The parts of a kubeconfig that podbridge needs. An empty text stands for an absent one, as in Go.
#[derive(Clone, Default)]
pub(super) struct Kubeconfig {
    pub(super) current_context: String,
    pub(super) clusters: BTreeMap<String, Cluster>,
    pub(super) users: BTreeMap<String, User>,
    pub(super) contexts: BTreeMap<String, Context>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Cluster {
    pub(super) server: String,
    pub(super) tls_server_name: String,
    #[serde(deserialize_with = "yaml_boolean")]
    pub(super) insecure_skip_tls_verify: bool,
    pub(super) certificate_authority: String,
    #[serde(deserialize_with = "base64_bytes")]
    pub(super) certificate_authority_data: Vec<u8>,
    pub(super) proxy_url: String,
    #[serde(deserialize_with = "yaml_boolean")]
    pub(super) disable_compression: bool,
    pub(super) extensions: Vec<Extension>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Extension {
    pub(super) name: String,
    pub(super) extension: Value,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct User {
    pub(super) client_certificate: String,
    #[serde(deserialize_with = "base64_bytes")]
    pub(super) client_certificate_data: Vec<u8>,
    pub(super) client_key: String,
    #[serde(deserialize_with = "base64_bytes")]
    pub(super) client_key_data: Vec<u8>,
    pub(super) token: String,
    #[serde(rename = "tokenFile")]
    pub(super) token_file: String,
    pub(super) r#as: String,
    pub(super) as_uid: String,
    pub(super) as_groups: Vec<String>,
    pub(super) as_user_extra: BTreeMap<String, Vec<String>>,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) auth_provider: Option<AuthProvider>,
    pub(super) exec: Option<Exec>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct AuthProvider {
    pub(super) name: String,
    pub(super) config: BTreeMap<String, String>,
}

/// A credential plugin.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Exec {
    pub(super) api_version: String,
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<Variable>,
    pub(super) install_hint: String,
    #[serde(deserialize_with = "yaml_boolean")]
    pub(super) provide_cluster_info: bool,
    pub(super) interactive_mode: String,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    pub(super) cluster: String,
    pub(super) user: String,
    pub(super) namespace: String,
}

/// The form of a file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(rename = "current-context")]
    current_context: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Context,
}

/// Base64 in which line breaks are ignored, as Go does.
fn base64_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let mut text = String::deserialize(deserializer)?;
    text.retain(|letter| !letter.is_ascii_whitespace());
    // The decoder's message would quote a byte of a key.
    data_encoding::BASE64
        .decode(text.as_bytes())
        .map_err(|_| serde::de::Error::custom("a field whose name ends in -data is not base64"))
}

/// A boolean, also in the words of YAML 1.1, which Go's parser knows. They are kept as text where a text is expected.
fn yaml_boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(value) => Ok(value),
        Value::String(word) if matches!(word.to_lowercase().as_str(), "y" | "yes" | "on") => Ok(true),
        Value::String(word) if matches!(word.to_lowercase().as_str(), "n" | "no" | "off") => Ok(false),
        _ => Err(serde::de::Error::custom("a field is neither true nor false")),
    }
}

/// The kubeconfig that the options mean.
pub(super) struct Source {
    /// Empty if no file exists.
    pub(super) content: Kubeconfig,
    /// Name of the kubeconfig for messages.
    pub(super) named: String,
}

/// Reads the kubeconfig that the options name, else the default one.
pub(super) fn source(target: &Target, flags: &Flags) -> Result<Source, Failure> {
    if let Some(data) = &target.kubeconfig_data {
        let named = "kubeconfig_data".to_owned();
        let content = from_value(data.clone()).map_err(|why| unusable(&named, &why))?;
        return Ok(Source { content, named });
    }
    let (paths, may_be_absent) = named_files(target, flags);
    let named = format!("the kubeconfig {}", paths.join(":"));
    match read_list(&paths)? {
        Some(content) => Ok(Source { content, named }),
        None if may_be_absent => Ok(Source {
            content: Kubeconfig::default(),
            named: "the absent kubeconfig".into(),
        }),
        None if paths.len() == 1 => Err(absent(Path::new(paths[0]))),
        None => Err(Failure::new(
            Kind::Kubeconfig,
            format!("none of the files of {named} exists; correct KUBECONFIG or --kubeconfig"),
        )),
    }
}

/// Returns the paths of the kubeconfig, whether or not the files exist.
pub(super) fn files(target: &Target, flags: &Flags) -> Vec<PathBuf> {
    if target.kubeconfig_data.is_some() {
        return Vec::new();
    }
    named_files(target, flags).0.into_iter().map(PathBuf::from).collect()
}

/// Returns the paths, and whether they may all be absent. The option in `extra_args` comes last on kubectl's command line, and wins; it
/// names one file, and a ':' in it separates nothing.
fn named_files<'a>(target: &'a Target, flags: &'a Flags) -> (Vec<&'a str>, bool) {
    match &flags.kubeconfig {
        Some(path) if !path.is_empty() => (vec![path], false),
        _ => target.kubeconfig_files(),
    }
}

/// Reads and merges the files of a list; `None` if none of them exists. Absent files of a longer list are skipped, as kubectl does.
fn read_list(paths: &[&str]) -> Result<Option<Kubeconfig>, Failure> {
    let mut merged: Option<Kubeconfig> = None;
    for (at, path) in paths.iter().enumerate() {
        if paths[..at].contains(path) {
            continue;
        }
        if let Some(next) = read_if_present(Path::new(path))? {
            merged = Some(match merged {
                None => next,
                Some(first) => merge(first, next),
            });
        }
    }
    Ok(merged)
}

/// Adds the entries of a later file whose names the earlier files do not have.
fn merge(mut first: Kubeconfig, later: Kubeconfig) -> Kubeconfig {
    fn add<T>(first: &mut BTreeMap<String, T>, later: BTreeMap<String, T>) {
        for (name, entry) in later {
            first.entry(name).or_insert(entry);
        }
    }
    if first.current_context.is_empty() {
        first.current_context = later.current_context;
    }
    add(&mut first.clusters, later.clusters);
    add(&mut first.users, later.users);
    add(&mut first.contexts, later.contexts);
    first
}

/// Reads one file. Relative paths in it become absolute, from the file's directory.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, Failure> {
    read_if_present(path)?.ok_or_else(|| absent(path))
}

fn absent(path: &Path) -> Failure {
    Failure::new(
        Kind::Kubeconfig,
        format!(
            "the kubeconfig {} does not exist; correct KUBECONFIG or --kubeconfig",
            path.display()
        ),
    )
}

fn read_if_present(path: &Path) -> Result<Option<Kubeconfig>, Failure> {
    let named = format!("the kubeconfig {}", path.display());
    if !path.is_absolute() {
        return Err(Failure::usage(format!("{named} is not an absolute path")));
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(&named, &format!("cannot be read: {error}"))),
    };
    let mut content = parse(&bytes).map_err(|why| unusable(&named, &why))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let resolve = |path: &mut String| {
        if !path.is_empty() && !Path::new(path).is_absolute() {
            *path = directory.join(&*path).to_string_lossy().into_owned();
        }
    };
    for cluster in content.clusters.values_mut() {
        resolve(&mut cluster.certificate_authority);
    }
    for user in content.users.values_mut() {
        resolve(&mut user.client_certificate);
        resolve(&mut user.client_key);
        resolve(&mut user.token_file);
        // A command without a slash is looked up in PATH.
        if let Some(exec) = user.exec.as_mut().filter(|exec| exec.command.contains('/')) {
            resolve(&mut exec.command);
        }
    }
    Ok(Some(content))
}

/// Parses a kubeconfig that is in no file.
#[cfg(any(test, fuzzing))]
pub(super) fn parse_content(bytes: &[u8]) -> Result<Kubeconfig, Failure> {
    parse(bytes).map_err(|why| unusable("the kubeconfig", &why))
}

/// Parses YAML or JSON; the error is the end of a sentence that begins with the file's name.
fn parse(bytes: &[u8]) -> Result<Kubeconfig, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Ok(Kubeconfig::default());
    }
    // JSON may be indented by tabs, which YAML forbids.
    if let Ok(value) = serde_json::from_str(text) {
        return from_value(value);
    }
    from_value(yaml(text)?)
}

/// Parses the first document of a YAML text.
pub(super) fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
        strict_booleans: true,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        // The parser may quote the file, secrets and all.
        format!(
            "is not valid YAML: {}",
            without_values(text.lines().next().unwrap_or_default())
        )
    })?;
    Ok(documents.into_iter().next().unwrap_or_default())
}

fn from_value(mut value: Value) -> Result<Kubeconfig, String> {
    remove_nulls(&mut value);
    if value.is_null() {
        return Ok(Kubeconfig::default());
    }
    let file: File = serde_json::from_value(value)
        .map_err(|error| format!("is not a kubeconfig: {}", without_values(&error.to_string())))?;
    if !matches!(file.api_version.as_str(), "" | "v1") || !matches!(file.kind.as_str(), "" | "Config") {
        return Err("is not a kubeconfig: its kind is not Config, or its apiVersion is not v1".into());
    }
    Ok(Kubeconfig {
        current_context: file.current_context,
        clusters: by_name(
            file.clusters.into_iter().map(|named| (named.name, named.cluster)),
            "clusters",
        )?,
        users: by_name(file.users.into_iter().map(|named| (named.name, named.user)), "users")?,
        contexts: by_name(
            file.contexts.into_iter().map(|named| (named.name, named.context)),
            "contexts",
        )?,
    })
}

/// Go reads `null` as an absent value.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Makes a map of a list; client-go refuses a file with a name that stands twice.
fn by_name<T>(entries: impl Iterator<Item = (String, T)>, list: &str) -> Result<BTreeMap<String, T>, String> {
    let mut map = BTreeMap::new();
    for (name, entry) in entries {
        if map.contains_key(&name) {
            return Err(format!(
                "has the name {name:?} twice in its {list}; remove one of the entries"
            ));
        }
        map.insert(name, entry);
    }
    Ok(map)
}

fn unusable(named: &str, why: &str) -> Failure {
    Failure::new(Kind::Kubeconfig, format!("{named} {why}"))
}

/// Replaces everything that a parser quotes.
fn without_values(text: &str) -> String {
    let mut shown = String::new();
    let mut quote = None;
    for letter in text.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            Some(_) => {}
            None if matches!(letter, '"' | '`' | '\'') => {
                quote = Some(letter);
                shown.push('…');
            }
            None => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_and_their_paths_made_absolute() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let content = "clusters: [{name: c, cluster: {certificate-authority: ca.crt, server: 'https://x'}}]\n\
            users: [{name: u, user: {exec: {command: ./login}}}, {name: v, user: {exec: {command: login, env: null}}}]";
        std::fs::write(&path, content).unwrap();
        let read = read_list(&[path.to_str().unwrap(), "/none/config"]).unwrap().unwrap();
        let in_directory = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(read.clusters["c"].certificate_authority, in_directory("ca.crt"));
        assert_eq!(read.users["u"].exec.as_ref().unwrap().command, in_directory("./login"));
        assert_eq!(read.users["v"].exec.as_ref().unwrap().command, "login");

        let refused = |target: Target| source(&target, &Flags::default()).err().unwrap();
        let listed = |list: &str| Target {
            kubeconfig: Some(list.into()),
            ..Target::default()
        };
        let absent = refused(listed("/none/config"));
        assert_eq!(absent.kind, Kind::Kubeconfig);
        assert!(absent.message.contains("/none/config does not exist"), "{absent}");
        assert!(refused(listed("/none/a:/none/b")).message.contains("none of"));
        let one_file = Target {
            kubeconfig_file: Some("/none/a:/none/b".into()),
            ..Target::default()
        };
        assert!(refused(one_file).message.contains("/none/a:/none/b does not exist"));
    }

    #[test]
    fn the_first_file_of_a_list_wins() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let first = write("a", "clusters: [{name: c, cluster: {server: one}}]");
        let later = write(
            "b",
            "clusters: [{name: c, cluster: {server: two, proxy-url: p}}, {name: d}]\ncurrent-context: x",
        );
        let merged = read_list(&[&first, &later, &first]).unwrap().unwrap();
        assert_eq!(merged.clusters["c"].server, "one");
        assert_eq!(merged.clusters["c"].proxy_url, "");
        assert!(merged.clusters.contains_key("d"));
        assert_eq!(merged.current_context, "x");
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for content in [
            "users: [{name: u, user: SECRET}]",
            "users: {SECRET",
            "contexts: SECRET",
            "users: [{name: u, user: {client-key-data: '!SECRET'}}]",
            "kind: SECRET",
        ] {
            std::fs::write(&path, content).unwrap();
            let failure = read(&path).err().unwrap();
            assert_eq!(failure.kind, Kind::Kubeconfig);
            assert!(!failure.message.contains("SECRET"), "{failure}");
            assert!(failure.message.contains(path.to_str().unwrap()));
        }
    }

    #[test]
    fn odd_files_are_read_as_client_go_reads_them() {
        let usable = |text: &str| parse(text.as_bytes()).is_ok();
        assert!(usable(""));
        assert!(usable("# nothing\n"));
        assert!(usable(
            "---\napiVersion: v1\nkind: Config\nusers: null\nclusters:\n- name: c\n  cluster: null\n"
        ));
        assert!(usable("{\n\t\"kind\": \"Config\",\n\t\"users\": []\n}"));
        assert!(usable("\u{feff}kind: Config\n"));
        assert!(usable("current-context: a\ncurrent-context: b\n"));
        assert!(usable(
            "clusters: [{name: y, cluster: {insecure-skip-tls-verify: yes}}]"
        ));
        assert!(!usable("clusters: [{name: c}, {name: c}]"));
        assert!(!usable("apiVersion: v2"));
        assert!(!usable("users: [{name: u, user: {token: 1}}]"));
    }
}
