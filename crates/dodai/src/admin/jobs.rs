//! Jobs of apps that this base keeps.

use std::time::{SystemTime, UNIX_EPOCH};

use dodai_admin::Refusal;
use dodai_admin::seam::{Job, Jobs};
use dodai_base::node::Parts;
use dodai_core::id::AppId;
use dodai_runtime::JobStatus;
use http::StatusCode;
use serde_json::{Value, json};

/// Jobs as they stand, page by page.
pub async fn list(base: &Parts, wanted: &Jobs) -> Result<Value, Refusal> {
    let found = base.runtime.jobs(wanted.app.as_ref()).await.map_err(|error| refused(&error))?;
    let (items, next) = page(found.into_iter().map(shown).collect(), wanted);
    Ok(json!({ "items": items, "next": next, "failed": {} }))
}

/// Forgets a job.
pub async fn forget(base: &Parts, app: &AppId, name: &str) -> Result<(), Refusal> {
    if base.runtime.forget_job(app, name).await.map_err(|error| refused(&error))? {
        return Ok(());
    }
    Err(Refusal::not_found(format!("{app} has no job `{name}` here")).remedy("`dodai job list` shows all"))
}

/// The jobs of one page, and where the next one begins if there are more.
fn page(mut found: Vec<Job>, wanted: &Jobs) -> (Vec<Job>, Option<String>) {
    let place = |job: &Job| Job::place(&job.app, &job.name);
    found.sort_by_cached_key(place);
    if let Some(after) = &wanted.after {
        found.retain(|job| place(job) > *after);
    }
    let has_more = found.len() > wanted.limit;
    found.truncate(wanted.limit);
    let next = found.last().filter(|_| has_more).map(place);
    (found, next)
}

fn shown(job: JobStatus) -> Job {
    Job {
        base: None,
        app: job.app.to_string(),
        name: job.name,
        schedule: job.schedule,
        due_time: job.due_time,
        next_ms: millis(job.next),
        ticks: job.ticks,
        repeats: job.repeats,
        failures: job.failures,
        last_ms: job.last.map(millis),
        problem: job.problem,
    }
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn refused(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "store", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_page_by_page_in_the_order_of_their_places() {
        let job =
            |app: &str, name: &str| Job { app: app.to_owned(), name: name.to_owned(), ..Job::default() };
        let all = || vec![job("a/b", "x"), job("a/b", "z"), job("a/b-c", "y"), job("a/a", "w")];
        let page = |after: Option<&str>, limit| {
            let (items, next) =
                page(all(), &Jobs { after: after.map(str::to_owned), limit, ..Jobs::default() });
            let names: String = items.into_iter().map(|job| job.name).collect();
            (names, next)
        };
        assert_eq!(page(None, 2), ("wy".to_owned(), Some("a/b-c/y".to_owned())));
        assert_eq!(page(Some("a/b-c/y"), 2), ("xz".to_owned(), None));
        assert_eq!(page(Some("a/b/z"), 2), (String::new(), None));
    }
}
