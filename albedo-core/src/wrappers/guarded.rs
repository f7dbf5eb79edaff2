//! Sessions and judges behind routes and guards.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{BoxStream, FuturesUnordered};

use super::gate::Gate;
use super::routes::{Route, Routes};
use super::{Guards, Surroundings};
use crate::backend::{
    Completion, DeviceMemory, GenerateRequest, Generated, Message, ModelInfo, ModelSession, ModelSessionExt,
    ScoreRequest, TokenScores,
};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Reach, Result, Retry};
use crate::identity::Identity;
use crate::judge::{Assessment, Comparison, Judge, JudgeProfile, Preparation, Prepared};
use crate::rng::derive_seed;
use crate::twin::Twin;

const OPEN: &str = "open the routes";
const GENERATE: &str = "generate replies over the routes";
const SCORE: &str = "score replies over the routes";
const COMPARE: &str = "compare replies over the routes";

/// What [`Guarded`] wraps: routes of one kind, and in front of them everything
/// that the [module](super) describes. `Guarded<dyn ModelSession>` is a
/// [`ModelSession`], `Guarded<dyn Judge>` a [`Judge`].
///
/// Facts (the model, a judge's identity) are those of the first route in order
/// that could be opened.
pub struct Guarded<S: ?Sized> {
    routes: Arc<Routes<S>>,
    first: Arc<S>,
}

impl<S: ?Sized> Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Routes { order, guards, .. } = &*self.routes;
        let routes: Vec<_> = order.iter().map(|(route, _)| route.name()).collect();
        f.debug_struct("Guarded").field("routes", &routes).field("guards", guards).finish_non_exhaustive()
    }
}

impl<S: ?Sized + Send + Sync + 'static> Guarded<S> {
    /// Opens `routes`, all at once. One that is closed for a passing reason is
    /// opened by a later call, as long as another is open.
    ///
    /// # Errors
    /// The operator's: no route, two of one name, guards that make no sense.
    /// The route's own: it cannot be opened by waiting, or no route can be opened.
    pub async fn open(
        routes: Vec<Route<S>>,
        guards: Guards,
        surroundings: Surroundings,
        cx: &CallContext,
    ) -> Result<Self> {
        guards.check()?;
        let names: BTreeSet<_> = routes.iter().map(Route::name).collect();
        if routes.is_empty() || names.len() < routes.len() {
            let message = if routes.is_empty() { "there is none" } else { "two have one name" };
            return Err(Error::new(ErrorKind::ConfigInvalid, OPEN, message));
        }
        let (mut first, mut closed) = (None, None);
        for (route, target) in routes.iter().zip(join_all(routes.iter().map(|route| route.target(cx))).await)
        {
            match target {
                Ok(target) => _ = first.get_or_insert(target),
                Err(error) if error.reach() == Reach::Call && error.retry() != Retry::Never => {
                    closed.get_or_insert(error.with("route", route.name()));
                }
                Err(error) => return Err(error.with("route", route.name())),
            }
        }
        let first = match (first, closed) {
            (Some(first), _) => first,
            (None, Some(error)) => return Err(error),
            (None, None) => return Err(Error::bug(OPEN, "no route was tried")),
        };
        let gated = |route: Route<S>| {
            let concurrency = route.concurrency(guards.concurrency);
            let gate = Gate::new(Arc::clone(&surroundings.clock), guards.breaker, concurrency);
            (route, Arc::new(gate))
        };
        let order = routes.into_iter().map(gated).collect();
        let routes = Routes { order, guards, surroundings, requests: AtomicU64::new(0) };
        Ok(Self { routes: Arc::new(routes), first })
    }
}

#[async_trait]
impl ModelSession for Guarded<dyn ModelSession> {
    fn model(&self) -> &ModelInfo {
        self.first.model()
    }

    fn memory(&self) -> Option<DeviceMemory> {
        self.first.memory()
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        self.first.count_prompt_tokens(messages)
    }

    fn prompt_tokens(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        self.first.prompt_tokens(messages)
    }

    fn text_tokens(&self, text: &str) -> Result<Option<Vec<u32>>> {
        self.first.text_tokens(text)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let answers = requests.into_iter().enumerate().map(|(index, request)| {
            let (routes, cx) = (Arc::clone(&self.routes), cx.clone());
            async move {
                let request = Arc::new(request);
                let key = || {
                    let messages = Digest::of_json(&request.messages).unwrap_or(Digest::of([]));
                    derive_seed("albedo call", &[messages.as_bytes(), &request.seed.to_le_bytes()])
                };
                let asked = Arc::clone(&request);
                let ask =
                    move |session: Arc<dyn ModelSession>, cx| -> BoxFuture<'static, Result<Completion>> {
                        let request = GenerateRequest::clone(&asked);
                        Box::pin(async move { session.generate_one(request, &cx).await })
                    };
                Generated { index, result: routes.call(GENERATE, key, &ask, &cx).await }
            }
        });
        answers.collect::<FuturesUnordered<_>>().boxed()
    }

    fn kept(&self, request: &GenerateRequest) {
        // Any of them may have answered, and a hedge has asked two.
        for session in self.routes.order.iter().filter_map(|(route, _)| route.opened()) {
            session.kept(request);
        }
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        let key = || derive_seed("albedo score", &[]);
        let ask = move |session: Arc<dyn ModelSession>, cx| -> BoxFuture<'static, Result<Vec<TokenScores>>> {
            let requests = requests.clone();
            Box::pin(async move { session.score(requests, &cx).await })
        };
        self.routes.call(SCORE, key, &ask, cx).await
    }
}

#[async_trait]
impl Judge for Guarded<dyn Judge> {
    fn identity(&self) -> &Identity {
        self.first.identity()
    }

    fn profile(&self) -> JudgeProfile {
        self.first.profile()
    }

    fn prompt(&self, request: &Comparison) -> Result<Option<Vec<Message>>> {
        self.first.prompt(request)
    }

    fn twin(&self, request: &Comparison, words: u64) -> Result<Option<Twin>> {
        self.first.twin(request, words)
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        let texts = [request.first.text.as_bytes(), request.second.text.as_bytes()];
        let key = || derive_seed("albedo comparison", &texts);
        let comparison = Arc::new(request.clone());
        let ask = move |judge: Arc<dyn Judge>, cx| -> BoxFuture<'static, Result<Assessment>> {
            let comparison = Arc::clone(&comparison);
            Box::pin(async move { judge.compare(&comparison, &cx).await })
        };
        self.routes.call(COMPARE, key, &ask, cx).await
    }

    async fn prepare(&self, request: &Preparation, cx: &CallContext) -> Result<Prepared> {
        let key = || derive_seed("albedo preparation", &[request.fence.as_bytes()]);
        let preparation = Arc::new(request.clone());
        let ask = move |judge: Arc<dyn Judge>, cx| -> BoxFuture<'static, Result<Prepared>> {
            let preparation = Arc::clone(&preparation);
            Box::pin(async move { judge.prepare(&preparation, &cx).await })
        };
        self.routes.call(COMPARE, key, &ask, cx).await
    }
}
