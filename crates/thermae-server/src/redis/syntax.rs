//! What a command's arguments are: the compact text in its row, read into what COMMAND DOCS answers.
//!
//! - `value`, `offset:integer`: an argument's name and its type, a string where none is named; `pattern` is a pattern unless it says otherwise;
//! - `key#0`: a key, which the command's key specification of that index finds; `pattern#1`: a pattern of such keys;
//! - `NX`: a token that is an argument by itself, named as it is in lower case; `sorting=ALPHA`: named otherwise;
//! - `EX seconds:integer`: an argument behind its token; a token before another token is by itself;
//! - `condition(NX | XX)`: one of several; `range(start end)`: several, in this order;
//! - `[...]`: may be left out; `name...`: once or more, also behind one token; `[GET pattern]...`: each time behind the token;
//! - `GET@6.2.0`: since that version of Redis; `~2.8.12`: deprecated since.
//!
//! Texts are read when COMMAND DOCS is asked and at no other time. They are our own: one that makes no sense is a bug, which a test finds.

use std::iter::Peekable;
use std::vec::IntoIter;

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    String,
    /// An integer.
    Integer,
    /// A float.
    Double,
    /// The name of a key.
    Key,
    /// A pattern of names.
    Pattern,
    /// A time of the clock.
    UnixTime,
    /// A word that is there or not.
    PureToken,
    /// One of its arguments.
    OneOf,
    /// All of its arguments, in their order.
    Block,
}

impl Kind {
    /// Its name in Redis.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::Key => "key",
            Self::Pattern => "pattern",
            Self::UnixTime => "unix-time",
            Self::PureToken => "pure-token",
            Self::OneOf => "oneof",
            Self::Block => "block",
        }
    }

    /// Of those that a text names.
    fn named(name: &str) -> Option<Self> {
        [Self::String, Self::Integer, Self::Double, Self::Pattern, Self::UnixTime]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// An argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument<'a> {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Index of the key specification that finds it.
    pub key_spec_index: Option<u8>,
    /// The word before it, or the one that it is.
    pub token: Option<&'a str>,
    /// The version that had it first, where the command is older.
    pub since: Option<&'a str>,
    /// The version that advised against it.
    pub deprecated_since: Option<&'a str>,
    /// Whether it may be left out.
    pub is_optional: bool,
    /// Whether it may be there several times.
    pub is_multiple: bool,
    /// Whether its token then is, too.
    pub is_token_multiple: bool,
    /// What it consists of.
    pub arguments: Vec<Self>,
}

/// The arguments that a text describes; else what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Argument<'_>>, String> {
    let mut parser = Parser { words: words(text).into_iter().peekable() };
    let (arguments, is_choice) = parser.group()?;
    match parser.words.next() {
        None if is_choice => Err("a choice has no name".to_owned()),
        None => Ok(arguments),
        Some(word) => Err(format!("{word} closes nothing")),
    }
}

/// Brackets and bars, and what is between those and blanks.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for part in text.split(' ') {
        let pieces = part.split_inclusive(['[', ']', '(', ')', '|']);
        for piece in pieces {
            let (word, bracket) = match piece.char_indices().next_back() {
                Some((at, '[' | ']' | '(' | ')' | '|')) => piece.split_at(at),
                _ => (piece, ""),
            };
            words.extend([word, bracket].into_iter().filter(|word| !word.is_empty()));
        }
    }
    words
}

/// What stands behind a name or a closing parenthesis.
#[derive(Debug, Default)]
struct Suffixes<'a> {
    key_spec_index: Option<u8>,
    since: Option<&'a str>,
    deprecated_since: Option<&'a str>,
    is_multiple: bool,
}

impl<'a> Suffixes<'a> {
    /// Those at the end of a word, and what is before them.
    fn split(word: &'a str) -> Result<(&'a str, Self), String> {
        let mut suffixes = Self::default();
        let (rest, is_multiple) = match word.strip_suffix("...") {
            Some(rest) => (rest, true),
            None => (word, false),
        };
        suffixes.is_multiple = is_multiple;
        let (rest, deprecated_since) = split_at_last(rest, '~');
        let (rest, since) = split_at_last(rest, '@');
        let (rest, index) = split_at_last(rest, '#');
        for version in [since, deprecated_since].into_iter().flatten() {
            if !is_version(version) {
                return Err(format!("{version} is no version"));
            }
        }
        if let Some(index) = index {
            let index = index.parse().map_err(|_| format!("{index} is no index of a key specification"))?;
            suffixes.key_spec_index = Some(index);
        }
        (suffixes.since, suffixes.deprecated_since) = (since, deprecated_since);
        Ok((rest, suffixes))
    }
}

fn split_at_last(word: &str, mark: char) -> (&str, Option<&str>) {
    word.rsplit_once(mark).map_or((word, None), |(before, behind)| (before, Some(behind)))
}

fn is_version(text: &str) -> bool {
    let numbers: Vec<&str> = text.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u8>().is_ok())
}

/// Whether a word, its suffixes included, is one to be written as it is.
fn is_token(word: &str) -> bool {
    let word = word.rsplit('=').next().unwrap_or(word);
    let word = word.split(['@', '~', '#', ':', '.']).next().unwrap_or(word);
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
}

struct Parser<'a> {
    words: Peekable<IntoIter<&'a str>>,
}

impl<'a> Parser<'a> {
    fn take(&mut self, word: &str) -> bool {
        self.words.next_if_eq(&word).is_some()
    }

    /// Arguments up to what closes them, and whether they are a choice, with bars between.
    fn group(&mut self) -> Result<(Vec<Argument<'a>>, bool), String> {
        let mut arguments = Vec::new();
        let mut bars = 0;
        while let Some(word) = self.words.peek() {
            match *word {
                "]" | ")" => break,
                "|" => {
                    bars += 1;
                    self.words.next();
                    // Each bar is between two arguments, or it stands between none of them.
                    if arguments.len() != bars {
                        return Err("a choice is between arguments, one to a side".to_owned());
                    }
                }
                _ => arguments.push(self.argument()?),
            }
        }
        if bars > 0 && arguments.len() != bars + 1 {
            return Err("a choice is between arguments, one to a side".to_owned());
        }
        Ok((arguments, bars > 0))
    }

    /// One argument, in brackets if it is optional.
    fn argument(&mut self) -> Result<Argument<'a>, String> {
        if !self.take("[") {
            return self.required();
        }
        let mut argument = self.required()?;
        if !self.take("]") {
            return Err(format!("{} is not alone in its brackets", argument.name));
        }
        argument.is_optional = true;
        if self.take("...") {
            if argument.token.is_none() || argument.is_multiple {
                return Err(format!("{} has no token to be repeated with", argument.name));
            }
            argument.is_multiple = true;
            argument.is_token_multiple = true;
        }
        Ok(argument)
    }

    /// One argument, with its token if it has one.
    fn required(&mut self) -> Result<Argument<'a>, String> {
        let word = self.word()?;
        if !is_token(word) {
            return self.named(word);
        }
        let is_before_its_argument =
            self.words.peek().is_some_and(|next| !matches!(*next, "[" | "]" | "|" | ")") && !is_token(next));
        if !is_before_its_argument {
            return pure_token(word);
        }
        if word.contains(['@', '~', '#', ':', '=', '.']) {
            return Err(format!("what {word} says is said of its argument"));
        }
        let next = self.word()?;
        Ok(Argument { token: Some(word), ..self.named(next)? })
    }

    fn word(&mut self) -> Result<&'a str, String> {
        match self.words.next() {
            None => Err("an argument is missing at the end".to_owned()),
            Some(word) if word.starts_with(['[', ']', '(', ')', '|', '@', '~', '#', ':', '=', '.']) => {
                Err(format!("an argument is missing before {word}"))
            }
            Some(word) => Ok(word),
        }
    }

    /// What begins with its name.
    fn named(&mut self, word: &'a str) -> Result<Argument<'a>, String> {
        if self.take("(") {
            return self.nested(word);
        }
        let (rest, suffixes) = Suffixes::split(word)?;
        let (name, kind) = match rest.rsplit_once(':') {
            Some((name, kind)) => (name, Kind::named(kind).ok_or_else(|| format!("{kind} is no type"))?),
            None if suffixes.key_spec_index.is_some() => (rest, Kind::named(rest).unwrap_or(Kind::Key)),
            None => (rest, Kind::named(rest).unwrap_or(Kind::String)),
        };
        Ok(described(name.to_owned(), kind, &suffixes))
    }

    /// What consists of others; its name and its parenthesis have been read.
    fn nested(&mut self, name: &str) -> Result<Argument<'a>, String> {
        let (arguments, is_choice) = self.group()?;
        if !self.take(")") {
            return Err(format!("{name} is not closed"));
        }
        if arguments.is_empty() {
            return Err(format!("{name} consists of nothing"));
        }
        let is_suffix = |word: &&str| word.starts_with(['@', '~', '#', ':', '.']);
        let (rest, suffixes) = match self.words.next_if(is_suffix) {
            Some(word) => Suffixes::split(word)?,
            None => ("", Suffixes::default()),
        };
        if !rest.is_empty() || suffixes.key_spec_index.is_some() {
            return Err(format!("{name} has its type from what it consists of"));
        }
        let kind = if is_choice { Kind::OneOf } else { Kind::Block };
        Ok(Argument { arguments, ..described(name.to_owned(), kind, &suffixes) })
    }
}

fn pure_token(word: &str) -> Result<Argument<'_>, String> {
    let (rest, suffixes) = Suffixes::split(word)?;
    let (name, token) = match rest.split_once('=') {
        Some((name, token)) => (name.to_owned(), token),
        None => (rest.to_ascii_lowercase(), rest),
    };
    if token.contains(':') || suffixes.key_spec_index.is_some() {
        return Err(format!("{word} is a token, and of no other type"));
    }
    Ok(Argument { token: Some(token), ..described(name, Kind::PureToken, &suffixes) })
}

fn described<'a>(name: String, kind: Kind, suffixes: &Suffixes<'a>) -> Argument<'a> {
    Argument {
        name,
        kind,
        key_spec_index: suffixes.key_spec_index,
        token: None,
        since: suffixes.since,
        deprecated_since: suffixes.deprecated_since,
        is_optional: false,
        is_multiple: suffixes.is_multiple,
        is_token_multiple: false,
        arguments: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::key_specs;
    use crate::redis::table;

    /// Of a type by this name, and nothing else.
    fn plain(name: &str, kind: Kind) -> Argument<'static> {
        described(name.to_owned(), kind, &Suffixes::default())
    }

    fn token(token: &'static str) -> Argument<'static> {
        Argument { token: Some(token), ..plain(&token.to_ascii_lowercase(), Kind::PureToken) }
    }

    #[test]
    fn names_types_and_versions_are_read() {
        assert_eq!(parse("").unwrap(), []);
        let expected = [
            plain("value", Kind::String),
            plain("offset", Kind::Integer),
            plain("pattern", Kind::Pattern),
            plain("pattern", Kind::String),
            plain("ip:port", Kind::String),
            Argument { key_spec_index: Some(2), ..plain("key", Kind::Key) },
            Argument { key_spec_index: Some(1), ..plain("pattern", Kind::Pattern) },
            Argument {
                since: Some("6.2.0"),
                deprecated_since: Some("7.0.11"),
                is_multiple: true,
                ..plain("at", Kind::UnixTime)
            },
        ];
        let text = "value offset:integer pattern pattern:string ip:port:string key#2 pattern#1 at:unix-time@6.2.0~7.0.11...";
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_token_belongs_to_what_follows_it_or_to_itself() {
        assert_eq!(parse("NO ONE").unwrap(), [token("NO"), token("ONE")]);
        let seconds = Argument { token: Some("EX"), ..plain("seconds", Kind::Integer) };
        assert_eq!(parse("EX seconds:integer NO-SUCH").unwrap(), [seconds.clone(), token("NO-SUCH")]);
        assert_eq!(parse("NX [value]").unwrap()[0], token("NX"));
        let named = Argument { name: "sorting".to_owned(), since: Some("1.0.0"), ..token("ALPHA") };
        assert_eq!(parse("sorting=ALPHA@1.0.0").unwrap(), [named]);
        let choice = Argument {
            arguments: vec![token("NX"), seconds],
            token: Some("HOW"),
            since: Some("7.0.0"),
            is_optional: true,
            ..plain("how", Kind::OneOf)
        };
        assert_eq!(parse("[HOW how(NX | EX seconds:integer)@7.0.0]").unwrap(), [choice]);
    }

    #[test]
    fn what_is_repeated_is_so_with_its_token_or_without() {
        let read = |text| {
            let argument = parse(text).unwrap().remove(0);
            (argument.is_optional, argument.is_multiple, argument.is_token_multiple)
        };
        assert_eq!(read("key#0..."), (false, true, false));
        assert_eq!(read("[key#0...]"), (true, true, false));
        assert_eq!(read("[GET key#0...]"), (true, true, false));
        assert_eq!(read("[GET key#0]..."), (true, true, true));
        assert_eq!(read("[GET pair(a b)]..."), (true, true, true));
        assert_eq!(read("pair(a b)..."), (false, true, false));
        assert_eq!(read("pair(a... b)"), (false, false, false));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, told) in [
            ("value]", "] closes nothing"),
            ("a | b", "a choice has no name"),
            ("how(a | b c)", "one to a side"),
            ("how(a b | c)", "one to a side"),
            ("how(a |)", "one to a side"),
            ("how(| a)", "one to a side"),
            ("how(a", "how is not closed"),
            ("how()", "how consists of nothing"),
            ("how(a b):integer", "how has its type from"),
            ("how(a b)#0", "how has its type from"),
            ("[a b]", "a is not alone"),
            ("[a", "a is not alone"),
            ("[a]...", "a has no token"),
            ("[A a...]...", "a has no token"),
            ("[", "missing at the end"),
            ("[]", "missing before ]"),
            ("(a)", "missing before ("),
            ("@1.0.0", "missing before @1.0.0"),
            ("a:number", "number is no type"),
            ("a@7.0", "7.0 is no version"),
            ("a#x", "x is no index"),
            ("EX@7.0.0 seconds", "what EX@7.0.0 says"),
            ("EX#0", "EX#0 is a token"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    /// An argument and all in it.
    fn walk<'a>(argument: &'a Argument<'a>, see: &mut dyn FnMut(&Argument<'_>)) {
        see(argument);
        argument.arguments.iter().for_each(|inner| walk(inner, see));
    }

    #[test]
    fn every_row_says_what_it_takes() {
        for command in table::entries() {
            let name = &command.full_name;
            let arguments = parse(command.syntax).unwrap_or_else(|error| panic!("{name}: {error}"));
            let specs = key_specs::specs(name).len();
            for argument in &arguments {
                walk(argument, &mut |argument| {
                    assert!(argument.key_spec_index.is_none_or(|index| usize::from(index) < specs), "{name}");
                });
            }
            assert!(command.subcommands.is_empty() || arguments.is_empty(), "{name}");
        }
    }

    /// The fewest words that an argument is, if it is not left out.
    fn words_min(argument: &Argument<'_>) -> usize {
        let own = match argument.kind {
            Kind::OneOf => argument.arguments.iter().map(words_min).min().unwrap_or(0),
            Kind::Block => words_min_of(&argument.arguments),
            Kind::PureToken => return 1,
            _ => 1,
        };
        own + usize::from(argument.token.is_some())
    }

    fn words_min_of(arguments: &[Argument<'_>]) -> usize {
        arguments.iter().filter(|argument| !argument.is_optional).map(words_min).sum()
    }

    #[test]
    fn the_arity_allows_the_fewest_arguments() {
        let differs = |command: &&table::Entry| {
            let before = command.full_name.split('|').count();
            let least = before + words_min_of(&parse(command.syntax).unwrap());
            command.subcommands.is_empty() && command.arity.unsigned_abs() as usize != least
        };
        let differing: Vec<_> =
            table::entries().iter().filter(differs).map(|it| it.full_name.as_str()).collect();
        // PFMERGE is called with its destination alone, too; Redis does not say so either.
        assert_eq!(differing, ["pfmerge"]);
    }
}
