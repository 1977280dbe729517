//! Figures, as criterion and `kontiki bench` write them and as the history keeps them.
//!
//! Read by the marks before what is wanted, not by a parser: both writers are this project's own or pinned, and this
//! crate has no dependency.

/// One measured figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub name: String,
    pub median: f64,
    pub unit: &'static str,
}

impl Figure {
    /// As the history keeps it. Names have no quotes.
    pub fn line(&self, time: u64, commit: &str) -> String {
        let Self { name, median, unit } = self;
        format!(r#"{{"time":{time},"commit":"{commit}","name":"{name}","median":{median},"unit":"{unit}"}}"#)
    }

    /// The last one of this name.
    pub fn before(&self, history: &str) -> Option<f64> {
        let mark = format!("\"name\":\"{}\",", self.name);
        history.lines().rev().find_map(|line| number(after(line, &mark)?, "\"median\":"))
    }
}

/// The two files of one benchmark.
pub fn from_criterion(benchmark: &str, estimates: &str) -> Option<Figure> {
    let name = string(benchmark, "\"full_id\":")?.to_owned();
    Some(Figure { name, median: number(after(estimates, "\"median\":")?, "\"point_estimate\":")?, unit: "ns" })
}

/// Throughput and median latency of each run, and the median gap of each fault.
pub fn from_kontiki_bench(results: &str) -> Vec<Figure> {
    let figure = |name: String, median, unit| Figure { name: format!("kontiki bench/{name}"), median, unit };
    let mut figures = Vec::new();
    for run in results.split("\"load\":").skip(1) {
        let (Some(load), Some(rate)) = (string(run, ""), number(run, "\"per_second\":")) else { continue };
        figures.push(figure(format!("{load} rate"), rate, "/s"));
        figures.extend(number(run, "\"p50\":").map(|p50| figure(load.to_owned(), p50, "µs")));
    }
    let mut gaps: Vec<(&str, Vec<f64>)> = Vec::new();
    for trial in results.split("\"fault\":").skip(1) {
        let (Some(fault), Some(gap)) = (string(trial, ""), number(trial, "\"gap_us\":")) else { continue };
        match gaps.iter_mut().find(|(known, _)| *known == fault) {
            Some((_, known)) => known.push(gap),
            None => gaps.push((fault, vec![gap])),
        }
    }
    figures.extend(gaps.into_iter().map(|(fault, gaps)| figure(format!("leader-{fault} gap"), median(gaps), "µs")));
    figures
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// What follows a mark.
pub fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

fn string<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    after(text, mark)?.trim_start().strip_prefix('"')?.split('"').next()
}

fn number(text: &str, mark: &str) -> Option<f64> {
    after(text, mark)?.trim_start().split([',', '}', '\n']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, median: f64, unit: &'static str) -> Figure {
        Figure { name: name.to_owned(), median, unit }
    }

    #[test]
    fn criterions_median_is_read() {
        let benchmark = r#"{"group_id":"range/one","function_id":null,"full_id":"range/one","title":"range/one"}"#;
        let estimates = r#"{"mean":{"point_estimate":9.5},"median":{"confidence_interval":{"confidence_level":0.95,
            "lower_bound":1.0,"upper_bound":2.0},"point_estimate":1.25,"standard_error":0.01}}"#;
        assert_eq!(from_criterion(benchmark, estimates), Some(figure("range/one", 1.25, "ns")));
        assert_eq!(from_criterion("", estimates), None);
    }

    #[test]
    fn runs_and_gaps_of_kontiki_bench_are_read() {
        let results = r#"{
  "runs": [
    { "load": "put:64", "per_second": 1234.5, "latency_us": { "p50": 51, "p90": 90 }, "cost": null },
    { "load": "get:64", "per_second": 9000.0, "latency_us": { "p50": 7 } }
  ],
  "failovers": [
    { "fault": "kill", "server": "kontiki", "gap_us": 300, "watch_gap_us": 1 },
    { "fault": "kill", "server": "kontiki", "gap_us": 100, "watch_gap_us": 1 }
  ]
}"#;
        let expected = [
            figure("kontiki bench/put:64 rate", 1234.5, "/s"),
            figure("kontiki bench/put:64", 51.0, "µs"),
            figure("kontiki bench/get:64 rate", 9000.0, "/s"),
            figure("kontiki bench/get:64", 7.0, "µs"),
            figure("kontiki bench/leader-kill gap", 200.0, "µs"),
        ];
        assert_eq!(from_kontiki_bench(results), expected);
    }
}
