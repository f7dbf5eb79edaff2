//! Sends alerts that begin and end to the webhook.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Next, Task};
use crate::validator::parts::Base;
use crate::{CallContext, Result};

/// How long one message may take. Source: albedo.
const LIMIT: Duration = Duration::from_mins(10);

/// How often it is looked whether an alert has stood for long enough. Source: albedo.
const LOOK: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Alerts(Arc<Base>);

impl Alerts {
    pub(super) fn new(base: Arc<Base>) -> Self {
        Self(base)
    }
}

#[async_trait]
impl Task for Alerts {
    fn name(&self) -> &'static str {
        "alerts"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let Base { webhook, ledger, time, .. } = &*self.0;
        let Some(webhook) = webhook else { return Ok(Next::After(LIMIT / 2)) };
        let [after, quiet] =
            [webhook.settings.after_secs, webhook.settings.quiet_secs].map(Duration::from_secs);
        match ledger.untold(after, quiet, time.now_ms()).await? {
            None => Ok(Next::Change(LOOK)),
            Some(notice) => {
                webhook.tell(&notice, cx).await?;
                ledger.told(&notice, time.now_ms()).await?;
                Ok(Next::Now)
            }
        }
    }
}
