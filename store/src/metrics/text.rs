//! Prometheus' text form, with numbers written as Go's client writes them.
//!
//! The encoder of the `prometheus` crate writes the same lines, but its numbers in full: 2147483648 where everything that
//! was made for etcd has seen 2.147483648e+09. Source of the form: `expfmt/text_create.go` of `prometheus/common`.

use std::fmt::Write;

use prometheus::proto::{Metric, MetricFamily, MetricType};

/// All families, in the order they come in.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut text = Text(String::new());
    for family in families {
        text.family(family);
    }
    text.0
}

struct Text(String);

impl Text {
    fn family(&mut self, family: &MetricFamily) {
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY | MetricType::UNTYPED => unreachable!("{name}: nothing here counts like that"),
        };
        self.push(&["# HELP ", name, " "]);
        self.escaped(family.help(), false);
        self.push(&["\n# TYPE ", name, " ", kind, "\n"]);
        for metric in family.get_metric() {
            match family.get_field_type() {
                MetricType::COUNTER => self.sample(name, "", metric, None, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => self.histogram(name, metric),
                _ => self.sample(name, "", metric, None, metric.get_gauge().get_value()),
            }
        }
    }

    fn histogram(&mut self, name: &str, metric: &Metric) {
        let histogram = metric.get_histogram();
        let count = histogram.get_sample_count() as f64;
        let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        let bounds = finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count() as f64));
        for (bound, below) in bounds.chain([(f64::INFINITY, count)]) {
            self.sample(name, "_bucket", metric, Some(bound), below);
        }
        self.sample(name, "_sum", metric, None, histogram.get_sample_sum());
        self.sample(name, "_count", metric, None, count);
    }

    fn sample(&mut self, name: &str, suffix: &str, metric: &Metric, bound: Option<f64>, value: f64) {
        self.push(&[name, suffix]);
        let mut separator = "{";
        for label in metric.get_label() {
            self.push(&[separator, label.name(), "=\""]);
            self.escaped(label.value(), true);
            self.push(&["\""]);
            separator = ",";
        }
        if let Some(bound) = bound {
            self.push(&[separator, "le=\""]);
            self.number(bound);
            self.push(&["\""]);
            separator = ",";
        }
        self.push(&[if separator == "," { "} " } else { " " }]);
        self.number(value);
        self.push(&["\n"]);
    }

    fn push(&mut self, pieces: &[&str]) {
        self.0.extend(pieces.iter().copied());
    }

    fn escaped(&mut self, text: &str, in_quotes: bool) {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '"' if in_quotes => self.0.push_str("\\\""),
                _ => self.0.push(c),
            }
        }
    }

    /// The fewest digits that mean this number and no other: Go's `strconv.FormatFloat(number, 'g', -1, 64)`, which takes
    /// an exponent below -4 and from 6 digits on. Zero has no sign.
    fn number(&mut self, number: f64) {
        if !number.is_finite() {
            return self.push(&[match number {
                f64::INFINITY => "+Inf",
                f64::NEG_INFINITY => "-Inf",
                _ => "NaN",
            }]);
        }
        let scientific = format!("{:e}", if number == 0.0 { 0.0 } else { number });
        let (digits, exponent) = scientific.split_once('e').expect("this form has an exponent");
        let exponent: i32 = exponent.parse().expect("an exponent is a whole number");
        let written = match exponent {
            -4..6 => write!(self.0, "{}", if number == 0.0 { 0.0 } else { number }),
            _ => {
                let sign = if exponent < 0 { '-' } else { '+' };
                write!(self.0, "{digits}e{sign}{:02}", exponent.abs())
            }
        };
        written.expect("a text can always grow");
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;
    use prometheus::{Histogram, HistogramOpts, IntGaugeVec, Opts};

    use super::*;

    fn check(number: f64, expected: &str) {
        let mut text = Text(String::new());
        text.number(number);
        assert_eq!(text.0, expected);
    }

    #[test]
    fn numbers_are_written_as_gos() {
        check(0.0, "0");
        check(-0.0, "0");
        check(-1.0, "-1");
        check(0.25, "0.25");
        check(0.0001, "0.0001");
        check(0.00001, "1e-05");
        check(0.000_012_5, "1.25e-05");
        check(999_999.0, "999999");
        check(999_999.5, "999999.5");
        check(1e6, "1e+06");
        check(-1_234_567.0, "-1.234567e+06");
        check(2_147_483_648.0, "2.147483648e+09");
        check(1_782_900_000.25, "1.78290000025e+09");
        check(u64::MAX as f64, "1.8446744073709552e+19");
        check(1e100, "1e+100");
        check(0.1 + 0.2, "0.30000000000000004");
        check(f64::INFINITY, "+Inf");
        check(f64::NEG_INFINITY, "-Inf");
        check(f64::NAN, "NaN");
    }

    #[test]
    fn a_family_is_a_heading_and_a_line_for_each_sample() {
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "Of\ntwo.").buckets(vec![0.5, 1e6])).unwrap();
        histogram.observe(0.25);
        histogram.observe(2e6);
        let gauges = IntGaugeVec::new(Opts::new("g", "One \"g\"."), &["b", "a"]).unwrap();
        gauges.with_label_values(&["\"\\\n", "x"]).set(3_000_000);
        let expected = "\
# HELP h Of\\ntwo.
# TYPE h histogram
h_bucket{le=\"0.5\"} 1
h_bucket{le=\"1e+06\"} 1
h_bucket{le=\"+Inf\"} 2
h_sum 2.00000025e+06
h_count 2
# HELP g One \"g\".
# TYPE g gauge
g{a=\"x\",b=\"\\\"\\\\\\n\"} 3e+06
";
        assert_eq!(encode(&[histogram.collect(), gauges.collect()].concat()), expected);
    }
}
