//! What a container runs: the pod's `command` and `args` against the image's ENTRYPOINT and CMD.

use super::expand::expand;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no command specified")]
pub struct NoCommand;

/// The argument vector; `environment` is the container's final environment, the one its process will see.
///
/// A `command` drops both ENTRYPOINT and CMD; `args` alone keeps ENTRYPOINT and drops CMD.
pub fn resolve(
    command: Option<&[String]>,
    args: Option<&[String]>,
    entrypoint: &[String],
    cmd: &[String],
    environment: &[(String, String)],
) -> Result<Vec<String>, NoCommand> {
    let written = |words: &[String]| -> Vec<String> {
        let lookup =
            |name: &str| environment.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        words.iter().map(|word| expand(word, lookup)).collect()
    };
    let command = command.filter(|words| !words.is_empty());
    let args = args.filter(|words| !words.is_empty());
    let argv = match (command, args) {
        (Some(command), args) => [written(command), written(args.unwrap_or_default())].concat(),
        (None, Some(args)) => [entrypoint.to_vec(), written(args)].concat(),
        (None, None) => [entrypoint, cmd].concat(),
    };
    if argv.is_empty() { Err(NoCommand) } else { Ok(argv) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn check(command: &str, args: &str, entrypoint: &str, cmd: &str, expected: Result<&str, NoCommand>) {
        let environment = [("A".to_owned(), "alpha".to_owned())];
        let found = resolve(Some(&words(command)), Some(&words(args)), &words(entrypoint), &words(cmd), &environment);
        assert_eq!(found, expected.map(words), "{command} | {args} | {entrypoint} | {cmd}");
    }

    #[test]
    fn the_table_of_command_and_args() {
        check("", "", "/entry", "cmd", Ok("/entry cmd"));
        check("run", "", "/entry", "cmd", Ok("run"));
        check("", "arg", "/entry", "cmd", Ok("/entry arg"));
        check("run", "arg", "/entry", "cmd", Ok("run arg"));
        check("", "", "", "cmd", Ok("cmd"));
        check("", "", "", "", Err(NoCommand));
    }

    #[test]
    fn only_the_words_of_the_pod_are_expanded() {
        check("$(A)", "$(A) $(B) $$(A)", "", "", Ok("alpha alpha $(B) $(A)"));
        check("", "", "$(A)", "$(A)", Ok("$(A) $(A)"));
    }
}
