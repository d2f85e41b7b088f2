//! The file of the configuration, TOML: what was changed while the server ran is written into it.
//!
//! A key that is there gets its new value where it stands, a new one goes to the end; comments and order stay. The new file is written beside the old one,
//! with its mode and owner, read back and compared key by key, and only then put in its place, whole or not at all. A link is followed. Whatever is not
//! as `thermae serve` reads it (tables, what is no TOML) is left alone. Rejected: writing all that the server knows; a file of options is its author's.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use thermae_core::env::{Env, OpenHow, SystemEnv};
use toml_edit::{Array, DocumentMut, Item, Value};

/// Longest file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The key of parameters that have none of their own, a list of `NAME=VALUE`.
pub const PARAMETERS_KEY: &str = "redis-parameter";

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// A number.
    Integer(i64),
    /// True or false.
    Flag(bool),
    /// One of some words.
    Word(&'static str),
}

impl Setting {
    fn value(&self) -> Value {
        match self {
            Self::Integer(number) => Value::from(*number),
            Self::Flag(is_so) => Value::from(*is_so),
            Self::Word(word) => Value::from(*word),
        }
    }

    fn is_in(&self, item: &Item) -> bool {
        match self {
            Self::Integer(number) => item.as_integer() == Some(*number),
            Self::Flag(is_so) => item.as_bool() == Some(*is_so),
            Self::Word(word) => item.as_str() == Some(word),
        }
    }
}

/// What is to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys and their values.
    pub keys: Vec<(&'static str, Setting)>,
    /// Parameters without a key of their own, and their values.
    pub parameters: Vec<(&'static str, String)>,
}

/// Writes changes into a file.
///
/// # Errors
/// Why the file is as it was, or may be after a power failure.
pub fn rewrite(path: &Path, changes: &Changes) -> Result<(), String> {
    let shown = path.display();
    let failed = |error: io::Error| format!("{shown}: {error}");
    let path = path.canonicalize().map_err(failed)?;
    let before = read(&path).map_err(failed)?;
    let after = edited(&before, changes).map_err(|reason| format!("{shown} {reason}"))?;
    if after == before {
        return Ok(());
    }
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".tmp-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = write(&beside, &path, &after).map_err(failed).and_then(|()| {
        let found = read(&beside).map_err(failed)?;
        compare(&before, &found, changes).map_err(|reason| format!("{shown} {reason}"))?;
        SystemEnv.rename(&beside, &path).map_err(failed)
    });
    if written.is_err() {
        // What is left of it is replaced the next time, where it cannot be removed either.
        let _ = SystemEnv.remove_file(&beside);
        return written;
    }
    SystemEnv.sync_dir(path.parent().unwrap_or(Path::new("/"))).map_err(|error| {
        format!("{shown} is written, but after a power failure it may be as it was before: {error}")
    })
}

fn read(path: &Path) -> io::Result<String> {
    let file = SystemEnv.open(path, OpenHow::READ)?;
    let length = file.len()?;
    if !file.metadata()?.is_file() || length > FILE_BYTES_MAX {
        return Err(io::Error::other("it is no file of at most 1 MiB"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// Writes the file that is to take the place of another, for its owner alone until it has that one's owner and mode.
fn write(path: &Path, of: &Path, text: &str) -> io::Result<()> {
    match SystemEnv.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = SystemEnv.open(path, OpenHow::CREATE_NEW)?;
    file.write_all_at(text.as_bytes(), 0)?;
    let (old, new) = (of.metadata()?, path.metadata()?);
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        chown(path, Some(old.uid()), Some(old.gid()))?;
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(old.mode() & 0o7777))?;
    file.sync_all()
}

fn parsed(text: &str) -> Result<DocumentMut, String> {
    let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        // Not the line, which may be that of a password.
        format!("is no TOML: {}", error.message().replace('\n', " "))
    })?;
    let table = document.iter().find(|(_, item)| !item.is_value()).map(|(key, _)| key.to_owned());
    match table {
        Some(key) => Err(format!("has a table, {key}, which is no option of thermae serve")),
        None => Ok(document),
    }
}

/// The parameters that a file names.
fn parameters(document: &DocumentMut) -> Result<Vec<String>, String> {
    let Some(item) = document.get(PARAMETERS_KEY) else { return Ok(Vec::new()) };
    if let Some(text) = item.as_str() {
        return Ok(text.split(',').map(|part| part.trim().to_owned()).collect());
    }
    let texts = item.as_array().and_then(|array| array.iter().map(|text| text.as_str()).collect());
    let texts: Vec<&str> = texts.ok_or_else(|| format!("has a {PARAMETERS_KEY} that is no list of texts"))?;
    Ok(texts.into_iter().map(str::to_owned).collect())
}

/// Whether a `NAME=VALUE` is about this parameter.
fn is_about(text: &str, name: &str) -> bool {
    text.split_once('=').is_some_and(|(own, _)| own.eq_ignore_ascii_case(name))
}

/// The file's text with the changes.
fn edited(before: &str, changes: &Changes) -> Result<String, String> {
    let mut document = parsed(before)?;
    for (key, setting) in &changes.keys {
        put(&mut document, key, setting.value());
    }
    if !changes.parameters.is_empty() {
        let texts = parameters(&document)?;
        if document.get(PARAMETERS_KEY).is_none_or(|item| !item.is_array()) {
            put(&mut document, PARAMETERS_KEY, Value::Array(texts.iter().map(String::as_str).collect()));
        }
        let array = document.get_mut(PARAMETERS_KEY).and_then(Item::as_array_mut);
        let array: &mut Array = array.ok_or("has no list of parameters")?;
        for (name, value) in &changes.parameters {
            let text = format!("{name}={value}");
            let places: Vec<usize> = (0..array.len())
                .filter(|index| {
                    array.get(*index).and_then(Value::as_str).is_some_and(|text| is_about(text, name))
                })
                .collect();
            if places.is_empty() {
                array.push(text.as_str());
            }
            for index in places {
                array.replace(index, text.as_str());
            }
        }
    }
    let after = document.to_string();
    compare(before, &after, changes)?;
    Ok(after)
}

/// Gives a key its value, with the comment that stands behind the one it has; a new key stands behind all else.
fn put(document: &mut DocumentMut, key: &str, mut value: Value) {
    if let Some(Item::Value(present)) = document.get_mut(key) {
        *value.decor_mut() = present.decor().clone();
        *present = value;
        return;
    }
    let mut above = document.trailing().as_str().unwrap_or_default().to_owned();
    if !above.is_empty() && !above.ends_with('\n') {
        above.push('\n');
    }
    document.set_trailing("");
    document.insert(key, Item::Value(value));
    if let Some(mut key) = document.key_mut(key) {
        key.leaf_decor_mut().set_prefix(above);
    }
}

/// Whether a file says what it said before, but for the changes.
///
/// # Errors
/// Where it does not.
fn compare(before: &str, after: &str, changes: &Changes) -> Result<(), String> {
    let (old, new) = (parsed(before)?, parsed(after)?);
    let differs = |key: &str| format!("can't be edited: {key} would not be read as it was written");
    for (key, setting) in &changes.keys {
        if !new.get(key).is_some_and(|item| setting.is_in(item)) {
            return Err(differs(key));
        }
    }
    let mut expected = parameters(&old)?;
    for (name, value) in &changes.parameters {
        let text = format!("{name}={value}");
        let mut is_new = true;
        for present in expected.iter_mut().filter(|present| is_about(present, name)) {
            (*present, is_new) = (text.clone(), false);
        }
        if is_new {
            expected.push(text);
        }
    }
    if parameters(&new)? != expected {
        return Err(differs(PARAMETERS_KEY));
    }
    let is_changed = |key: &str| key == PARAMETERS_KEY || changes.keys.iter().any(|(own, _)| *own == key);
    let texts = |document: &DocumentMut| -> Vec<(String, String)> {
        let kept = document.iter().filter(|(key, _)| !is_changed(key));
        kept.map(|(key, item)| (key.to_owned(), item.to_string())).collect()
    };
    if texts(&old) != texts(&new) {
        return Err(differs("another key"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "files for tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn changes() -> Changes {
        Changes {
            keys: vec![
                ("clients-max", Setting::Integer(7)),
                ("protected-mode", Setting::Flag(false)),
                ("when-full", Setting::Word("error")),
            ],
            parameters: vec![("slowlog-max-len", "3".to_owned()), ("notify-keyspace-events", String::new())],
        }
    }

    #[test]
    fn comments_and_order_stay() {
        let before = "# Ours.\nwhen-full = \"evict\" # for now\n\nstore = \"data/\"\n'clients-max'=\"9\"#few\nredis-parameter = [\n  \
                      \"SLOWLOG-max-len=9\", # short\n  \"tracking-table-max-keys=5\",\n]\nthreads = 2\n# The end";
        let after = "# Ours.\nwhen-full = \"error\" # for now\n\nstore = \"data/\"\n'clients-max'=7#few\nredis-parameter = [\n  \
                     \"slowlog-max-len=3\", # short\n  \"tracking-table-max-keys=5\", \"notify-keyspace-events=\",\n]\nthreads = 2\n# The end\nprotected-mode = false\n";
        assert_eq!(edited(before, &changes()).unwrap(), after);
        assert_eq!(edited(after, &changes()).unwrap(), after);
    }

    #[test]
    fn what_is_new_goes_to_the_end() {
        let after = "clients-max = 7\nprotected-mode = false\nwhen-full = \"error\"\n\
                     redis-parameter = [\"slowlog-max-len=3\", \"notify-keyspace-events=\"]\n";
        assert_eq!(edited("", &changes()).unwrap(), after);
        assert_eq!(edited("threads = 2", &changes()).unwrap(), format!("threads = 2\n{after}"));
        let text = "redis-parameter = \"slowlog-max-len=9, tracking-table-max-keys=5\"\n";
        let changes = Changes { keys: Vec::new(), ..changes() };
        let after = "redis-parameter = [\"slowlog-max-len=3\", \"tracking-table-max-keys=5\", \"notify-keyspace-events=\"]\n";
        assert_eq!(edited(text, &changes).unwrap(), after);
        assert_eq!(edited(text, &Changes::default()).unwrap(), text);
    }

    #[test]
    fn what_makes_no_sense_is_left_alone() {
        for (text, reason) in [
            ("a = ", "is no TOML: "),
            ("a = 1\na = 2\n", "is no TOML: "),
            ("[a]\nb = 1\n", "has a table, a,"),
            ("a.b = 1\n", "has a table, a,"),
            ("redis-parameter = 5\n", "no list of texts"),
            ("redis-parameter = [5]\n", "no list of texts"),
        ] {
            let error = edited(text, &changes()).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let error = edited("password = \"secret\" x\n", &changes()).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        assert!(compare("a = 1\n", "a = 2\n", &Changes::default()).unwrap_err().contains("another key"));
        assert!(compare("a = 1\n", "", &Changes::default()).is_err());
        assert!(compare("", "clients-max = 8\n", &changes()).unwrap_err().contains("clients-max"));
        assert!(compare("", "redis-parameter = [\"a=1\"]\n", &Changes::default()).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thermae.toml");
        let link = directory.path().join("link.toml");
        std::fs::write(&path, "threads = 2\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&path, &link).unwrap();
        // One that a server which was killed has left.
        std::fs::write(directory.path().join(format!("thermae.toml.tmp-{}", std::process::id())), "x")
            .unwrap();
        rewrite(&link, &changes()).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("threads = 2\nclients-max = 7\n"), "{text}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        // What is as it should be is not touched.
        let inode = path.metadata().unwrap().ino();
        rewrite(&path, &changes()).unwrap();
        assert_eq!(path.metadata().unwrap().ino(), inode);
        std::fs::write(&path, "[a]\n").unwrap();
        assert!(rewrite(&path, &changes()).unwrap_err().contains("thermae.toml has a table"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[a]\n");
        assert!(rewrite(&directory.path().join("none"), &changes()).unwrap_err().contains("No such file"));
        assert!(rewrite(directory.path(), &changes()).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
