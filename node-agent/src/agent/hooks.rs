//! `preStop` hooks that need no process in the container: `sleep` and `httpGet`.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::io::http_probe;
use crate::limits::GRACE_AFTER_HOOK;

/// Runs the hook within the grace; returns what is left of it for the stop signal. A hook that fails stops nothing.
pub async fn before_stop(hook: Option<LifecycleHandler>, pod_ip: Option<String>, grace: Duration) -> Duration {
    let Some(hook) = hook.filter(|_| !grace.is_zero()) else { return grace };
    let begun = Instant::now();
    let run = async {
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        } else if let (Some(get), Some(ip)) = (&hook.http_get, &pod_ip) {
            let _ = http_probe::get(get, ip, None).await;
        }
    };
    let _ = tokio::time::timeout(grace, run).await;
    grace.saturating_sub(begun.elapsed()).max(GRACE_AFTER_HOOK.min(grace))
}
