//! Figures over time: runs the criterion benchmarks and a short `kontiki bench`, notes what they measured, and tells how
//! each figure changed since this machine measured it last.
//!
//! The history lies beside what was built, a JSON object a line, because figures of two machines do not compare.

mod figures;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::process::{Failure, cargo, output, run, step, workspace};
use crate::setup;
use figures::{Figure, after, from_criterion, from_kontiki_bench};

const HISTORY: &str = "bench-history.jsonl";
/// Two minutes of what clients see: writes, reads, a watch, and the gap when the leader dies.
const SHORT: &[&str] = &[
    "bench",
    "put:1",
    "put:64",
    "txn:64",
    "get:64",
    "range-1k:1",
    "watch-latency:100",
    "leader-kill",
    "--start",
    "--warm-up=1s",
    "--duration=3s",
    "--trials=5",
    "--output=json",
];

/// All of it; with arguments only what `cargo bench` runs with them.
pub fn run_all(rest: &[String]) -> Result<(), Failure> {
    setup::ensure(setup::BUILD)?;
    let begin = SystemTime::now();
    run(cargo("bench").args(rest))?;
    let target = target_dir()?;
    let mut measured = criterion_since(&target.join("criterion"), begin);
    if rest.is_empty() {
        run(cargo("build").args(["--release", "--bin", "kontiki"]))?;
        step("kontiki bench, in a short form");
        let results = output(Command::new(target.join("release/kontiki")).args(SHORT))?;
        measured.extend(from_kontiki_bench(&results));
    }
    let history = target.join(HISTORY);
    let before = fs::read_to_string(&history).unwrap_or_default();
    print!("{}", table(&measured, &before));
    append(&history, &measured)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", history.display())))?;
    step(&format!("noted in {}", history.display()));
    Ok(())
}

fn target_dir() -> Result<PathBuf, Failure> {
    let metadata = output(cargo("metadata").args(["--no-deps", "--format-version=1"]))?;
    let dir = after(&metadata, "\"target_directory\":\"").and_then(|rest| rest.split('"').next());
    dir.map(PathBuf::from).ok_or_else(|| Failure::new("cargo metadata tells no target directory"))
}

/// What criterion has measured since then, by name.
fn criterion_since(dir: &Path, begin: SystemTime) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        open.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        let estimates = dir.join("new/estimates.json");
        let is_new = fs::metadata(&estimates).and_then(|file| file.modified()).is_ok_and(|at| at >= begin);
        let read = |file| fs::read_to_string(dir.join(file)).unwrap_or_default();
        if is_new {
            figures.extend(from_criterion(&read("new/benchmark.json"), &read("new/estimates.json")));
        }
    }
    figures.sort_by(|one, other| one.name.cmp(&other.name));
    figures
}

fn append(history: &Path, measured: &[Figure]) -> std::io::Result<()> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let commit = commit();
    let mut file = fs::File::options().create(true).append(true).open(history)?;
    measured.iter().try_for_each(|figure| writeln!(file, "{}", figure.line(time, &commit)))
}

/// With a plus where the tree differs from it.
fn commit() -> String {
    let git = |words: &[&str]| output(Command::new("git").current_dir(workspace()).args(words));
    let Ok(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|files| !files.is_empty());
    format!("{}{}", commit.trim(), if changed { "+" } else { "" })
}

/// Each figure beside what the history has last under its name.
fn table(measured: &[Figure], history: &str) -> String {
    let width = measured.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    let mut text = format!("{:<width$} {:>14} {:>14} {:>9}\n", "", "before", "now", "change");
    for figure in measured {
        let (before, change) = match figure.before(history) {
            Some(before) => (format!("{before:.1}"), format!("{:+.1} %", (figure.median / before - 1.0) * 100.0)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let Figure { name, median, unit } = figure;
        text += &format!("{name:<width$} {before:>14} {median:>14.1} {change:>9}  {unit}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_compared_with_the_last_of_its_name() {
        let figure = |name: &str, median| Figure { name: name.to_owned(), median, unit: "ns" };
        let history = [figure("a", 50.0), figure("b", 1.0), figure("a", 100.0)].map(|figure| figure.line(7, "abc"));
        let table = table(&[figure("a", 110.0), figure("new", 2.0)], &history.join("\n"));
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["a", "100.0", "110.0", "+10.0", "%", "ns"]);
        assert_eq!(lines[2], ["new", "-", "2.0", "-", "ns"]);
    }
}
