//! `doctor`: each step from a guest's name to its frames.

use core::fmt::Write as _;
use core::time::Duration;

use serde_json::json;
use vgpu_perception_host::attach::{Attachment, Finding, Outcome, examine};
use vgpu_perception_host::{Guest, Sighting};

use crate::args;
use crate::attach::spec;
use crate::commands::Report;
use crate::failure::Failure;
use crate::look::{Until, look};
use crate::progress::Progress;
use crate::show;

pub(crate) fn doctor(args: &args::Doctor) -> Result<Report, Failure> {
    let spec = spec(&args.find.guest)?;
    let progress = Progress::start(format!("attaching to {}", spec.source()));
    let (mut findings, attachment) = examine(&spec);
    drop(progress);
    if let Some(attachment) = attachment {
        findings.extend(search(attachment, Duration::from_millis(args.find.wait_ms)));
    }
    let bad = findings.iter().filter(|finding| finding.outcome == Outcome::Bad).count();
    let json: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "step": finding.step,
                "outcome": word(finding.outcome),
                "seen": finding.seen,
                "advice": finding.advice,
            })
        })
        .collect();
    let nothing = (bad > 0).then(|| match bad {
        1 => "one step does not work; see above what to change".to_owned(),
        _ => format!("{bad} steps do not work; see above what to change"),
    });
    let result = match bad {
        0 => format!("all {} steps work", findings.len()),
        _ => format!("{bad} of {} steps failed", findings.len()),
    };
    let text = format!("{result}\n{}", text(&findings));
    Ok(Report { json: json!({ "steps": json, "works": bad == 0 }), text, nothing, note: None })
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "good",
        Outcome::Notice => "notice",
        Outcome::Bad => "bad",
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let sign = match finding.outcome {
            Outcome::Good => "ok  ",
            Outcome::Notice => "note",
            Outcome::Bad => "BAD ",
        };
        let _ = writeln!(text, "{sign}  {:11}  {}", finding.step, finding.seen);
        for line in finding.advice.iter().flat_map(|advice| advice.lines()) {
            let _ = writeln!(text, "                   {line}");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// From RAM to a heartbeat.
fn search(attachment: Attachment, wait: Duration) -> Vec<Finding> {
    let finding = |step, outcome, seen: String, advice: Option<&str>| Finding {
        step,
        outcome,
        seen,
        advice: advice.map(str::to_owned),
    };
    let found = match look(&Guest::from(attachment), wait, Until::AllAreKnown) {
        Ok(found) => found,
        Err(failure) => return vec![finding("kernel", Outcome::Bad, failure.to_string(), None)],
    };
    let kernel = show::summary(&found);
    let mut findings =
        vec![finding("kernel", Outcome::Good, format!("{}; {kernel}", show::kind(found.survey.kernel())), None)];
    let seen = found.survey.candidates();
    if seen.is_empty() {
        let advice = "start the producer (vgpu-producer, or the capture program) in the guest, then run this again";
        findings.push(finding("region", Outcome::Bad, show::advice(&found), Some(advice)));
        return findings;
    }
    findings.push(finding("region", Outcome::Good, format!("{} found", seen.len()), None));
    let alive: Vec<&Sighting> = seen.iter().filter(|one| one.is_alive()).collect();
    findings.push(match alive[..] {
        [] => finding(
            "heartbeat",
            Outcome::Bad,
            show::advice(&found),
            Some("vgpu sample --stale takes a stale region (no heartbeat)"),
        ),
        [one] => finding("heartbeat", Outcome::Good, show::line(one), None),
        _ => {
            let lines: Vec<_> = alive.iter().map(|one| show::line(one)).collect();
            let advice = "choose one with --base, --process or --cr3, or take all with sample --all";
            finding("heartbeat", Outcome::Notice, format!("{} live: {}", alive.len(), lines.join("; ")), Some(advice))
        }
    });
    findings
}
