//! A small encoder of the Prometheus text format 0.0.4 and of OpenMetrics 1.0.
//!
//! The two differ in the names of counter and info families, in units and in the end mark; the caller writes
//! a family once. Label values are escaped; names are ours and checked by tests.

use std::fmt::Write;
use std::time::Duration;

/// A text format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper with this `Accept` header gets: OpenMetrics where it is asked for and not liked less
    /// than plain text.
    pub fn negotiate(accept: Option<&str>) -> Format {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.unwrap_or("").split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            match media.to_ascii_lowercase().as_str() {
                "application/openmetrics-text" => open = weight,
                "text/plain" => plain = weight,
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Only rises; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulated buckets, a sum and a count.
    Histogram,
    /// Facts as labels, with the value 1; its sample ends in `_info`.
    Info,
}

/// A call that stands for others of its bucket; OpenMetrics calls it an exemplar.
pub(super) struct Example {
    pub trace: u128,
    pub span: u64,
    pub value: f64,
    pub at: Duration,
}

/// Label names and values of one sample.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// Writes families one after the other.
pub(super) struct Encoder {
    format: Format,
    text: String,
    /// The family that is being written, without the suffix of its samples.
    family: &'static str,
    kind: Type,
}

impl Encoder {
    pub fn new(format: Format) -> Encoder {
        Encoder { format, text: String::with_capacity(16 * 1024), family: "", kind: Type::Gauge }
    }

    /// Starts a family. `name` has no `_total` or `_info`; its last word is its unit, if it has one.
    pub fn family(&mut self, name: &'static str, kind: Type, help: &str) -> &mut Encoder {
        (self.family, self.kind) = (name, kind);
        let (suffix, word) = match (kind, self.format) {
            (Type::Counter, Format::Prometheus) => ("_total", "counter"),
            (Type::Counter, Format::OpenMetrics) => ("", "counter"),
            (Type::Gauge, _) => ("", "gauge"),
            (Type::Histogram, _) => ("", "histogram"),
            (Type::Info, Format::Prometheus) => ("_info", "gauge"),
            (Type::Info, Format::OpenMetrics) => ("", "info"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name}{suffix} {help}");
        let _ = writeln!(self.text, "# TYPE {name}{suffix} {word}");
        if self.format == Format::OpenMetrics
            && let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit))
        {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        self
    }

    /// A sample with a whole value.
    pub fn whole(&mut self, labels: Labels<'_>, value: u64) -> &mut Encoder {
        self.start(self.suffix(), labels, None);
        let _ = writeln!(self.text, " {value}");
        self
    }

    /// A sample with a value in fractions.
    pub fn real(&mut self, labels: Labels<'_>, value: f64) -> &mut Encoder {
        self.start(self.suffix(), labels, None);
        let _ = writeln!(self.text, " {value:?}");
        self
    }

    /// A histogram from the calls per bucket, not cumulated; the last bucket has no bound. The format of Prometheus has
    /// no place for examples.
    pub fn histogram(
        &mut self,
        labels: Labels<'_>,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
        examples: &[Option<Example>],
    ) -> &mut Encoder {
        let mut below = 0;
        for (index, count) in counts.iter().enumerate() {
            below += count;
            let bound = bounds.get(index).map_or_else(|| "+Inf".to_owned(), |bound| format!("{bound:?}"));
            self.start("_bucket", labels, Some(&bound));
            let _ = write!(self.text, " {below}");
            if let (Format::OpenMetrics, Some(Some(one))) = (self.format, examples.get(index)) {
                let (trace, span, value) = (one.trace, one.span, one.value);
                let at = one.at.as_millis() as f64 / 1000.0;
                let _ = write!(
                    self.text,
                    " # {{trace_id=\"{trace:032x}\",span_id=\"{span:016x}\"}} {value:?} {at:.3}"
                );
            }
            self.text.push('\n');
        }
        self.start("_sum", labels, None);
        let _ = writeln!(self.text, " {sum:?}");
        self.start("_count", labels, None);
        let _ = writeln!(self.text, " {below}");
        self
    }

    /// The finished text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn suffix(&self) -> &'static str {
        match self.kind {
            Type::Counter => "_total",
            Type::Info => "_info",
            Type::Gauge | Type::Histogram => "",
        }
    }

    fn start(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut separator = '{';
        for (name, value) in labels {
            self.text.push(separator);
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(&mut self.text, value);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
    }
}

/// Escapes a label value: backslash, quote and line feed, as both formats ask.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_decides() {
        for (accept, expect) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (
                Some("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"),
                Format::OpenMetrics,
            ),
            (Some("text/plain;q=0.9, application/openmetrics-text;q=0.8"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
        ] {
            assert_eq!(Format::negotiate(accept), expect, "{accept:?}");
        }
    }

    #[test]
    fn label_values_cannot_leave_their_quotes() {
        let mut encoder = Encoder::new(Format::Prometheus);
        encoder.family("a", Type::Gauge, "A.").whole(&[("l", "x\"} 1\nb\\")], 1).whole(&[], 2);
        assert_eq!(encoder.finish(), "# HELP a A.\n# TYPE a gauge\na{l=\"x\\\"} 1\\nb\\\\\"} 1\na 2\n");
    }

    #[test]
    fn the_formats_differ_where_they_should() {
        let write = |format| {
            let mut encoder = Encoder::new(format);
            encoder.family("t_seconds", Type::Counter, "T.").real(&[], 0.5);
            encoder.family("h_seconds", Type::Histogram, "H.").histogram(
                &[("a", "b")],
                &[0.5, 1.0],
                &[1, 0, 2],
                7.0,
                &[
                    None,
                    None,
                    Some(Example { trace: 0xabc, span: 0x12, value: 3.5, at: Duration::from_millis(1_500) }),
                ],
            );
            encoder.family("b", Type::Info, "B.").whole(&[("v", "1")], 1);
            encoder.finish()
        };
        let histogram = |exemplar: &str| {
            format!(
                "h_seconds_bucket{{a=\"b\",le=\"0.5\"}} 1\nh_seconds_bucket{{a=\"b\",le=\"1.0\"}} 1\n\
                 h_seconds_bucket{{a=\"b\",le=\"+Inf\"}} 3{exemplar}\nh_seconds_sum{{a=\"b\"}} 7.0\nh_seconds_count{{a=\"b\"}} 3\n"
            )
        };
        let plain = histogram("");
        let exemplified = histogram(
            " # {trace_id=\"00000000000000000000000000000abc\",span_id=\"0000000000000012\"} 3.5 1.500",
        );
        assert_eq!(
            write(Format::Prometheus),
            format!(
                "# HELP t_seconds_total T.\n# TYPE t_seconds_total counter\nt_seconds_total 0.5\n\
                 # HELP h_seconds H.\n# TYPE h_seconds histogram\n{plain}\
                 # HELP b_info B.\n# TYPE b_info gauge\nb_info{{v=\"1\"}} 1\n"
            )
        );
        assert_eq!(
            write(Format::OpenMetrics),
            format!(
                "# HELP t_seconds T.\n# TYPE t_seconds counter\n# UNIT t_seconds seconds\nt_seconds_total 0.5\n\
                 # HELP h_seconds H.\n# TYPE h_seconds histogram\n# UNIT h_seconds seconds\n{exemplified}\
                 # HELP b B.\n# TYPE b info\nb_info{{v=\"1\"}} 1\n# EOF\n"
            )
        );
    }
}
