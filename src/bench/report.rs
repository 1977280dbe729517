//! A page with plots: percentile curves of every load, and how writes went on around each failure.
//!
//! One file without anything from elsewhere: SVG made here, and the results themselves beside it as JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::Results;
use super::compare::{Comparison, Verdict};
use super::failover::Trial;
use super::measure::Sample;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
/// Room for the axes' words.
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 34.0;
const COLOURS: [&str; 2] = ["#0b6e99", "#c2571a"];

/// Writes `index.html` and `results.json`; answers where the page is.
pub fn write(dir: &Path, results: &Results) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("results.json"), serde_json::to_vec_pretty(results)?)?;
    let page = dir.join("index.html");
    fs::write(&page, html(results))?;
    Ok(page)
}

fn html(results: &Results) -> String {
    let mut page = String::from(HEAD);
    for server in &results.servers {
        let _ = write!(page, "<p><b>{}</b>, version {}", escaped(&server.name), escaped(&server.version));
        if let Some(fault) = server.only_for {
            let _ = write!(page, ", for {fault}");
        }
        if let Some(command) = &server.command {
            let _ = write!(page, "<br><code>{}</code>", escaped(command));
        }
        page.push_str("</p>\n");
    }
    let mut loads: Vec<&str> = results.runs.iter().map(|run| &*run.load).collect();
    loads.dedup();
    for load in loads {
        let runs: Vec<&Sample> = results.runs.iter().filter(|run| run.load == load).collect();
        let _ = writeln!(page, "<section><h2>{}</h2>", escaped(load));
        page.push_str(&percentiles(&runs));
        if let Some(comparison) = results.comparisons.iter().find(|comparison| comparison.load == load) {
            page.push_str(&table(comparison));
        }
        page.push_str("</section>\n");
    }
    let mut faults: Vec<String> = results.failovers.iter().map(|trial| trial.fault.to_string()).collect();
    faults.dedup();
    for fault in faults {
        let trials: Vec<&Trial> = results.failovers.iter().filter(|trial| trial.fault.to_string() == fault).collect();
        let _ = writeln!(page, "<section><h2>{}</h2>", escaped(&fault));
        if let Some(note) = trials[0].fault.note() {
            let _ = writeln!(page, "<p class=\"note\">{}</p>", escaped(&note));
        }
        page.push_str(&gaps(&trials));
        page.push_str(&time_lines(&trials));
        page.push_str("</section>\n");
    }
    page.push_str("</body></html>\n");
    page
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>kontiki bench</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
section{border-top:1px solid #ddd;padding:.5rem 0 1.5rem}h2{font-size:1.2rem}code{font-size:.8rem;color:#555}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .7rem;text-align:right}th{color:#555;font-weight:600}
td:first-child,td:last-child,th:first-child{text-align:left}.better{color:#17713a}.worse{color:#b3261e}.not-shown{color:#777}
svg{max-width:100%;height:auto}svg text{font-size:11px;fill:#555}.grid{stroke:#e5e5e5}.note{color:#777}
</style></head><body><h1>kontiki bench</h1>
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A plot's frame and its two axes.
struct Plot {
    svg: String,
    x: Axis,
    y: Axis,
}

#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    /// Equal ratios are equal lengths.
    logarithmic: bool,
}

impl Axis {
    /// From zero to one.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let (low, high) = (scale(self.low), scale(self.high));
        ((scale(value) - low) / (high - low)).clamp(0.0, 1.0)
    }
}

/// What to mark on a logarithmic axis: the powers of ten, and their doubles and fives where there is room for them.
fn marks(axis: Axis) -> impl Iterator<Item = f64> {
    let decades = (axis.high / axis.low).log10();
    let steps: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = (axis.low.log10().floor() as i32..=axis.high.log10().ceil() as i32).map(|power| 10_f64.powi(power));
    powers
        .flat_map(|power| steps.iter().map(move |step| step * power))
        .filter(move |mark| (axis.low..=axis.high).contains(mark))
}

impl Plot {
    fn new(x: Axis, y: Axis) -> Self {
        Self { svg: format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\">"), x, y }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (width, height) = (WIDTH - LEFT - 10.0, HEIGHT - BOTTOM - 10.0);
        (LEFT + self.x.place(x) * width, 10.0 + (1.0 - self.y.place(y)) * height)
    }

    fn mark_x(&mut self, value: f64, text: &str) {
        let (x, y) = self.at(value, self.y.low);
        // The last word would leave the picture.
        let (anchor, place) = if x > WIDTH - 30.0 { ("end", WIDTH - 2.0) } else { ("middle", x) };
        let _ = write!(self.svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"10\" y2=\"{y:.1}\"/>");
        let _ = write!(self.svg, "<text x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", y + 16.0);
    }

    fn mark_y(&mut self, value: f64, text: &str) {
        let (x, y) = self.at(self.x.low, value);
        let right = WIDTH - 10.0;
        let _ = write!(self.svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = write!(self.svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", x - 6.0, y + 4.0);
    }

    fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
        let places: Vec<String> = points
            .map(|(x, y)| {
                let (x, y) = self.at(x, y);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = write!(
            self.svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-opacity=\".75\" stroke-width=\"1.6\" points=\"{}\"/>",
            places.join(" ")
        );
    }

    fn dot(&mut self, x: f64, y: f64, colour: &str) {
        let (x, y) = self.at(x, y);
        let _ =
            write!(self.svg, "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"1\" height=\"4\" fill=\"{colour}\"/>", y - 2.0);
    }

    fn end(mut self, servers: &[&str], note: &str) -> String {
        self.svg.push_str("</svg><p class=\"note\">");
        for (server, colour) in servers.iter().zip(COLOURS) {
            let _ = write!(self.svg, "<span style=\"color:{colour}\">&#9632; {}</span> &nbsp; ", escaped(server));
        }
        let _ = writeln!(self.svg, "{note}</p>");
        self.svg
    }
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn colour(names: &[&str], name: &str) -> &'static str {
    COLOURS[names.iter().position(|known| *known == name).unwrap_or(0) % COLOURS.len()]
}

/// One line a run: latency over percentiles, the last ones spread out.
fn percentiles(runs: &[&Sample]) -> String {
    let values = || runs.iter().flat_map(|run| &run.curve).map(|(_, value)| *value as f64);
    let (low, high) = (values().fold(f64::INFINITY, f64::min).max(1.0), values().fold(1.0, f64::max));
    // What is left of all operations, from all of them down to one in ten thousand.
    let x = Axis { low: 100.0, high: 0.01, logarithmic: true };
    let mut plot = Plot::new(x, Axis { low: low * 0.8, high: high * 1.2, logarithmic: true });
    for (left, text) in [(50.0, "50 %"), (10.0, "90 %"), (1.0, "99 %"), (0.1, "99.9 %"), (0.01, "99.99 %")] {
        plot.mark_x(left, text);
    }
    for mark in marks(plot.y) {
        plot.mark_y(mark, &time(mark));
    }
    let servers = names(runs.iter().map(|run| &*run.server));
    for run in runs {
        let points = run.curve.iter().map(|(percentile, value)| (100.0 - percentile, *value as f64));
        plot.line(points, colour(&servers, &run.server));
    }
    plot.end(&servers, "latency by percentile, a line for each run")
}

/// Microseconds.
fn time(micros: f64) -> String {
    match micros {
        micros if micros >= 1e6 => format!("{} s", micros / 1e6),
        micros if micros >= 1e3 => format!("{} ms", micros / 1e3),
        micros => format!("{micros} µs"),
    }
}

fn table(comparison: &Comparison) -> String {
    let (first, second) = (escaped(&comparison.first), escaped(&comparison.second));
    let mut text =
        format!("<table><tr><th></th><th>{first}</th><th>{second}</th><th>ratio</th><th>95 %</th><th></th></tr>");
    for row in &comparison.rows {
        let (class, said) = match row.verdict {
            Verdict::Better => ("better", "better"),
            Verdict::Worse => ("worse", "worse"),
            Verdict::NotShown => ("not-shown", "no difference shown"),
        };
        let _ = write!(
            text,
            "<tr class=\"{class}\"><td>{} {}</td><td>{:.1}</td><td>{:.1}</td><td>{:.2}</td><td>{:.2}–{:.2}</td><td>{said}</td></tr>",
            row.measure, row.unit, row.first, row.second, row.ratio, row.low, row.high
        );
    }
    text + "</table>\n"
}

/// The share of failures whose gap was at most so long.
fn gaps(trials: &[&Trial]) -> String {
    let ms = |trial: &Trial| trial.gap_us as f64 / 1e3;
    let longest = trials.iter().map(|trial| ms(trial)).fold(10.0, f64::max);
    let x = Axis { low: 1.0, high: longest * 1.2, logarithmic: true };
    let mut plot = Plot::new(x, Axis { low: 0.0, high: 1.0, logarithmic: false });
    for (share, text) in [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")] {
        plot.mark_y(share, text);
    }
    for mark in marks(plot.x) {
        plot.mark_x(mark, &time(mark * 1e3));
    }
    let servers = names(trials.iter().map(|trial| &*trial.server));
    for server in &servers {
        let mut own: Vec<f64> = trials.iter().filter(|trial| trial.server == *server).map(|trial| ms(trial)).collect();
        own.sort_by(f64::total_cmp);
        let count = own.len() as f64;
        let steps = own.iter().enumerate().map(|(i, gap)| (*gap, (i + 1) as f64 / count));
        plot.line(std::iter::once((own[0], 0.0)).chain(steps), colour(&servers, server));
    }
    plot.end(&servers, "share of trials with a gap in acknowledged writes of at most this")
}

/// A row a trial: a mark for each acknowledged write, around the failure.
fn time_lines(trials: &[&Trial]) -> String {
    const SHOWN_MS: (f64, f64) = (-250.0, 2500.0);
    let rows = trials.len() as f64;
    let x = Axis { low: SHOWN_MS.0, high: SHOWN_MS.1, logarithmic: false };
    let mut plot = Plot::new(x, Axis { low: rows, high: -1.0, logarithmic: false });
    for (at, text) in [(0.0, "failure"), (500.0, "0.5 s"), (1000.0, "1 s"), (1500.0, "1.5 s"), (2000.0, "2 s")] {
        plot.mark_x(at, text);
    }
    let servers = names(trials.iter().map(|trial| &*trial.server));
    let mut sorted = trials.to_vec();
    sorted.sort_by_key(|trial| servers.iter().position(|name| *name == trial.server));
    for (row, trial) in sorted.iter().enumerate() {
        // Ten milliseconds are one mark.
        let mut marks: Vec<i64> = trial.acknowledged_at_ms.iter().map(|at| (at / 10.0).floor() as i64).collect();
        marks.dedup();
        for at in marks.iter().map(|mark| *mark as f64 * 10.0).filter(|at| *at >= SHOWN_MS.0 && *at <= SHOWN_MS.1) {
            plot.dot(at, row as f64, colour(&servers, &trial.server));
        }
    }
    plot.end(&servers, "acknowledged writes around the failure, a row for each trial")
}
