//! The options `--include` and `--exclude` of `sync`, in the order of the command line: the first pattern that matches a path decides.
//! Implements clap's traits by hand, because the derived ones keep no order between two options. `cli` alone uses it.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

/// Name, whether the option includes paths, and help text of each option.
const OPTIONS: [(&str, bool, &str); 2] = [
    (
        "exclude",
        false,
        "Skip paths that match PATTERN (rsync's syntax); the first --exclude or --include that matches decides; may be repeated",
    ),
    (
        "include",
        true,
        "Copy paths that match PATTERN although a later --exclude matches them; may be repeated",
    ),
];

/// Patterns in the order of the command line; `true` if the pattern includes.
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
            let indices = matches.indices_of(name).into_iter().flatten();
            let patterns = matches.get_many::<OsString>(name).into_iter().flatten();
            found.extend(
                indices
                    .zip(patterns)
                    .map(|(index, pattern)| (index, include, pattern.clone())),
            );
        }
        found.sort_unstable_by_key(|(index, ..)| *index);
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
