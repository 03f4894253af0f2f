//! `--include` and `--exclude`, in the order in which they are given: the first that matches counts.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

const OPTIONS: [(&str, bool, &str); 2] = [
    (
        "exclude",
        false,
        "Leave out paths that match, as rsync does; may be repeated",
    ),
    (
        "include",
        true,
        "Take paths that match in spite of an --exclude that follows; may be repeated",
    ),
];

/// Each pattern, and whether it includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(pub Vec<(bool, OsString)>);

impl Args for Filters {
    fn augment_args(command: Command) -> Command {
        OPTIONS.into_iter().fold(command, |command, (name, _, help)| {
            let option = Arg::new(name).long(name).value_name("PATTERN").help(help);
            command.arg(option.action(ArgAction::Append).value_parser(value_parser!(OsString)))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut found = Vec::new();
        for (name, include, _) in OPTIONS {
            let places = matches.indices_of(name).into_iter().flatten();
            let patterns = matches.get_many::<OsString>(name).into_iter().flatten();
            found.extend(
                places
                    .zip(patterns)
                    .map(|(place, pattern)| (place, include, pattern.clone())),
            );
        }
        found.sort_unstable_by_key(|(place, ..)| *place);
        Ok(Self(
            found
                .into_iter()
                .map(|(_, include, pattern)| (include, pattern))
                .collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
