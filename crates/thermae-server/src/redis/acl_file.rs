//! The file of users: a line for each, `user NAME RULE...`, as Redis has it.
//!
//! It is read whole, and either all of its lines make sense or nothing of it counts; every line at fault is named. It is written whole as well, beside
//! its place and then into it, for its owner alone. A link is followed, as where the file comes from a directory that something else keeps up
//! to date; what is written takes the place of what the link points to. Comments are refused as in Redis: they would be lost when it is written.

use crate::redis::acl_rules::{self, RULES_MAX, RuleError, has_spaces};
use crate::users::{Accounts, DEFAULT, USERS_MAX, User};
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thermae_core::env::{Env, OpenHow, SystemEnv};

/// Longest file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Longest text about a file with errors.
const ERRORS_BYTES_MAX: usize = 16 << 10;

/// The users of a file. Where it says nothing of `default`, that one stays as it is: a file that forgets it opens no door. (In Redis it may do
/// everything then, without a password.)
///
/// # Errors
/// What is wrong with which line.
pub fn load(path: &Path, default: Arc<User>) -> Result<Accounts, String> {
    let bytes = read(path)
        .map_err(|error| format!("Error loading ACLs, opening file '{}': {error}", path.display()))?;
    let mut accounts = parse(&bytes, &path.display().to_string())?;
    accounts.entry(DEFAULT.to_vec()).or_insert(default);
    Ok(accounts)
}

/// Writes users to a file, whole or not at all.
///
/// # Errors
/// What the system says.
pub fn save(path: &Path, users: &[Arc<User>]) -> io::Result<()> {
    let mut text = Vec::new();
    for user in users {
        text.extend_from_slice(&acl_rules::describe(user));
        text.push(b'\n');
    }
    let path = resolved(path)?;
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".tmp-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = write(&beside, &text).and_then(|()| SystemEnv.rename(&beside, &path));
    if written.is_err() {
        // What is left of it is replaced the next time, where it cannot be removed either.
        let _ = SystemEnv.remove_file(&beside);
        return written;
    }
    SystemEnv.sync_dir(path.parent().unwrap_or(Path::new("/")))
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    // One that a server which was killed has left might belong to others: the new one is this server's own, with mode 0600.
    match SystemEnv.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = SystemEnv.open(path, OpenHow::CREATE_NEW)?;
    file.write_all_at(text, 0)?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = SystemEnv.open(&resolved(path)?, OpenHow::READ)?;
    let length = file.len()?;
    if !file.metadata()?.is_file() || length > FILE_BYTES_MAX {
        return Err(io::Error::other("it is no file of at most 64 MiB"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The path without links. A file that is yet to be written has a directory at least.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        (result, ..) => result,
    }
}

/// The users of a file's text. `shown` is what errors call the file.
///
/// # Errors
/// What is wrong with which line.
pub fn parse(text: &[u8], shown: &str) -> Result<Accounts, String> {
    let mut accounts = Accounts::new();
    let mut errors = String::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = trimmed(line, b" \t\r");
        if !line.is_empty() && errors.len() < ERRORS_BYTES_MAX {
            parse_line(line, index + 1, shown, &mut accounts, &mut errors);
        }
    }
    if errors.is_empty() {
        return Ok(accounts);
    }
    Err(errors + "WARNING: ACL errors detected, no change to the previously active ACL rules was performed")
}

fn trimmed<'a>(mut text: &'a [u8], bytes: &[u8]) -> &'a [u8] {
    while let [first, rest @ ..] = text
        && bytes.contains(first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && bytes.contains(last)
    {
        text = rest;
    }
    text
}

fn parse_line(line: &[u8], number: usize, shown: &str, accounts: &mut Accounts, errors: &mut String) {
    // Writing to a string does not fail.
    macro_rules! fail {
        ($($part:tt)*) => {{ let _ = write!(errors, $($part)*); return; }};
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(b"user"), Some(name)) = (words.next(), words.next()) else {
        fail!("{shown}:{number} should start with user keyword followed by the username. ");
    };
    let name_shown = String::from_utf8_lossy(name);
    if has_spaces(name) {
        fail!("'{shown}:{number}: username '{name_shown}' contains invalid characters. ");
    }
    if accounts.contains_key(name) {
        fail!("WARNING: Duplicate user '{name_shown}' found on line {number}. ");
    }
    if accounts.len() == USERS_MAX {
        fail!("{shown}:{number}: there are at most {USERS_MAX} users. ");
    }
    let Ok(rules) = acl_rules::merge(words) else {
        fail!("{shown}:{number}: Unmatched parenthesis in selector definition. ");
    };
    if rules.len() > RULES_MAX {
        fail!("{shown}:{number}: {}. ", RuleError::TooMuch.text());
    }
    let mut user = User::new(name);
    let mut is_told = false;
    for rule in &rules {
        let rule = trimmed(rule, b"\t\r\n");
        match acl_rules::apply(&mut user, rule) {
            Ok(()) => {}
            // No secret is in these, so that each may be shown.
            Err(error @ RuleError::Unknown) => {
                let rule = String::from_utf8_lossy(rule);
                let _ = write!(
                    errors,
                    "{shown}:{number}: Error in applying operation '{rule}': {}. ",
                    error.text()
                );
            }
            Err(error) if !is_told => {
                is_told = true;
                let _ = write!(errors, "{shown}:{number}: {}. ", error.text());
            }
            Err(_) => {}
        }
    }
    accounts.insert(name.to_vec(), Arc::new(user));
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "files for tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn lines(accounts: &Accounts) -> Vec<String> {
        accounts.values().map(|user| String::from_utf8(acl_rules::describe(user)).unwrap()).collect()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.acl");
        let text = b"user b on >pw %R~r* resetchannels &c* -@all +get (~x +@read -get)\n\n  user a off nopass +@all -@admin\r\n";
        std::fs::write(&path, text).unwrap();
        let link = directory.path().join("link.acl");
        symlink(&path, &link).unwrap();
        let accounts = load(&link, Arc::new(User::default_with(b"secret"))).unwrap();
        assert_eq!(accounts.keys().collect::<Vec<_>>(), [&b"a"[..], b"b", b"default"]);
        assert!(accounts[DEFAULT].accepts(b"secret") && !accounts[DEFAULT].accepts(b"other"));
        let users: Vec<_> = accounts.values().cloned().collect();
        save(&link, &users).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path, User::everybody()).unwrap(), accounts);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().collect::<Vec<_>>(), lines(&accounts));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_file_may_be_written_and_a_missing_one_not_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.acl");
        let error = load(&path, User::everybody()).unwrap_err();
        assert!(error.contains("users.acl': No such file"), "{error}");
        save(&path, &[User::everybody()]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"user default on nopass ~* &* +@all\n");
        assert!(load(directory.path(), User::everybody()).is_err());
        assert!(save(&directory.path().join("nowhere").join("x"), &[]).is_err());
    }

    #[test]
    fn each_line_at_fault_is_named() {
        let warning =
            "WARNING: ACL errors detected, no change to the previously active ACL rules was performed";
        for (text, errors) in [
            ("user x on\nuser x off\n", "WARNING: Duplicate user 'x' found on line 2. "),
            ("usr x\n", "f:1 should start with user keyword followed by the username. "),
            ("\nuser\n", "f:2 should start with user keyword followed by the username. "),
            ("# comment", "f:1 should start with user keyword followed by the username. "),
            ("user  x on", "f:1: Syntax error. "),
            ("user x\ton", "'f:1: username 'x\ton' contains invalid characters. "),
            ("user x (~a", "f:1: Unmatched parenthesis in selector definition. "),
            (
                "user x on bogus +nosuch bogus\nuser y +@foo a\n",
                "f:1: Syntax error. f:1: Error in applying operation '+nosuch': Unknown command or category name in ACL. \
                 f:2: Error in applying operation '+@foo': Unknown command or category name in ACL. f:2: Syntax error. ",
            ),
        ] {
            assert_eq!(parse(text.as_bytes(), "f"), Err(format!("{errors}{warning}")), "{text}");
        }
        let lengthy = "nonsense\n".repeat(100_000);
        assert!(parse(lengthy.as_bytes(), "f").unwrap_err().len() < 2 * ERRORS_BYTES_MAX);
        let many: String = (0..=USERS_MAX).map(|number| format!("user u{number}\n")).collect();
        assert!(parse(many.as_bytes(), "f").unwrap_err().contains("at most 4096 users"));
        assert_eq!(lines(&parse(b"user a\"b on\t\n", "f").unwrap()), ["user a\"b on resetchannels -@all"]);
    }
}
