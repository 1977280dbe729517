//! Results for people.

use std::io::IsTerminal as _;

use super::compare::{Comparison, Row, Verdict, median};
use super::failover::Trial;
use super::measure::{Sample, histogram};
use super::servers::Description;

pub fn print_servers(servers: &[Description]) {
    for server in servers {
        println!("{:<8} version {} at {}", server.name, server.version, server.endpoints.join(","));
        if let Some(command) = &server.command {
            println!("         {command}");
        }
        if let Some(bytes) = server.idle_bytes {
            println!("         {:.1} MB of memory when idle", bytes as f64 / 1e6);
        }
    }
}

/// The runs of one load.
pub fn print(samples: &[Sample], comparison: Option<&Comparison>) {
    println!("\n{}", samples[0].load);
    match comparison {
        Some(comparison) => print_comparison(comparison),
        None => samples.iter().for_each(print_alone),
    }
    for run in samples.iter().filter(|run| run.errors > 0) {
        let error = run.error.as_deref().unwrap_or_default();
        println!("  {}, round {}: {} errors, the first: {error}", run.server, run.round + 1, run.errors);
    }
    let probes: Vec<f64> = samples.iter().filter_map(|run| run.fdatasync_us).map(|probe| probe.p50 as f64).collect();
    if !probes.is_empty() {
        println!("  an fdatasync took {:.0} µs", median(&probes));
    }
}

fn print_alone(run: &Sample) {
    let latency = run.latency_us;
    println!(
        "  {:.0} /s   p50 {} µs   p90 {} µs   p99 {} µs   p99.9 {} µs   max {} µs",
        run.per_second, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    );
    if let Some(cost) = run.cost {
        println!(
            "  {:.0} µs of processor and {:.0} bytes written an operation, {:.1} MB of memory",
            cost.cpu_us_per_operation,
            cost.written_bytes_per_operation,
            cost.resident_bytes as f64 / 1e6
        );
    }
}

fn print_comparison(comparison: &Comparison) {
    println!("  {:<12} {:>12} {:>12}   ratio (95 %)", "", comparison.first, comparison.second);
    let colour = std::io::stdout().is_terminal();
    for Row { measure, unit, first, second, ratio, low, high, verdict } in &comparison.rows {
        let (start, end) = match (colour, verdict) {
            (true, Verdict::Better) => ("\x1b[32m", "\x1b[0m"),
            (true, Verdict::Worse) => ("\x1b[31m", "\x1b[0m"),
            _ => ("", ""),
        };
        let said = match verdict {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::NotShown => "no difference shown",
        };
        let name = format!("{measure} {unit}");
        println!("  {name:<12} {first:>12.1} {second:>12.1}   {start}{ratio:.2} ({low:.2}–{high:.2})  {said}{end}");
    }
}

/// The failures of the leader of one or two servers.
pub fn print_failovers(trials: &[Trial]) {
    println!("\n{}", trials[0].fault);
    if let Some(note) = trials[0].fault.note() {
        println!("  {note}");
    }
    let (gap, watch_gap) = ("gap ms p50 p99 max", "watch gap ms p50 p99 max");
    println!("  {:<8} {:>7} {:>11} {gap:>26} {watch_gap:>26}", "", "trials", "new leaders");
    let mut names: Vec<&str> = trials.iter().map(|trial| &*trial.server).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let own: Vec<&Trial> = trials.iter().filter(|trial| trial.server == name).collect();
        let gaps = |of: fn(&Trial) -> u64| {
            let mut gaps = histogram();
            own.iter().for_each(|trial| gaps.saturating_record(of(trial)));
            let ms = |quantile| gaps.value_at_quantile(quantile) as f64 / 1e3;
            format!("{:.0} {:.0} {:.0}", ms(0.5), ms(0.99), ms(1.0))
        };
        let sum = |of: fn(&Trial) -> usize| own.iter().map(|trial| of(trial)).sum::<usize>();
        println!(
            "  {name:<8} {:>7} {:>11} {:>26} {:>26}   {} errors, {} writes lost, {} events lost, {} doubled",
            own.len(),
            sum(|trial| usize::from(trial.new_leader)),
            gaps(|trial| trial.gap_us),
            gaps(|trial| trial.watch_gap_us),
            sum(|trial| trial.errors),
            sum(|trial| trial.lost_writes),
            sum(|trial| trial.lost_events),
            sum(|trial| trial.doubled_events)
        );
    }
}
