//! Connections to the chain's nodes: one at a time, dropped as soon as it is
//! in doubt, and the next endpoint taken.
//!
//! A dead socket raises no error: a call that is past its deadline, a connect
//! that hangs, and a head that does not move end a connection as much as an
//! error does.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use albedo_core::chain::{BlockHash, BlockNumber};
use albedo_core::{CallContext, Error, ErrorKind, Fault, Result, Retry};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use subxt::backend::{Backend, ChainHeadBackend, CombinedBackend, LegacyBackend};
use subxt::config::RpcConfigFor;
use subxt::config::substrate::H256;
use subxt::error::{BackendError, RpcError};
use subxt::rpcs::RpcClient;
use subxt::rpcs::methods::legacy::LegacyRpcMethods;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::runtime::Substrate;

/// Storage entries per request: a subnet has 256 neurons.
const PAGE: u32 = 1000;

/// How a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// The JSON-RPC methods that every Substrate node has.
    #[default]
    Legacy,
    /// `chainHead` of the newer JSON-RPC specification, and `chain_getBlockHash`
    /// for the hashes of earlier blocks.
    Chainhead,
    /// Whatever the node says that it has.
    Auto,
}

/// Endpoints, and how patiently they are used.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) endpoints: Vec<String>,
    pub(super) genesis: BlockHash,
    pub(super) backend: BackendKind,
    /// For connecting and for each call.
    pub(super) call_timeout: Duration,
    /// Longest time without a new finalised block.
    pub(super) stall: Duration,
}

/// A connection to one node.
pub(super) struct Connection {
    pub(super) endpoint: String,
    pub(super) node: Node,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A node that can be asked.
#[derive(Clone)]
pub(super) struct Node {
    kind: BackendKind,
    backend: Arc<dyn Backend<Substrate>>,
    /// What every node has, beside what the backend uses.
    methods: LegacyRpcMethods<RpcConfigFor<Substrate>>,
}

impl Deref for Node {
    type Target = dyn Backend<Substrate>;

    fn deref(&self) -> &Self::Target {
        &*self.backend
    }
}

impl Node {
    /// The hash of the finalised block `number`. `chainHead` has no method for it.
    pub(super) async fn hash_of(&self, number: BlockNumber) -> Result<Option<H256>, BackendError> {
        match self.kind {
            BackendKind::Chainhead => Ok(self.methods.chain_get_block_hash(Some(number.into())).await?),
            BackendKind::Legacy | BackendKind::Auto => {
                Ok(self.block_number_to_hash(number).await?.map(|block| block.hash()))
            }
        }
    }

    /// Every storage entry whose key begins with `prefix`: keys and values.
    ///
    /// With the legacy methods, subxt's own stream asks for pages until one is
    /// empty: one request more per map. Here a page that is not full is the last.
    pub(super) async fn entries(
        &self,
        prefix: Vec<u8>,
        at: H256,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, BackendError> {
        let (methods, mut entries) = (&self.methods, Vec::new());
        if self.kind != BackendKind::Legacy {
            let mut stream = self.storage_fetch_descendant_values(prefix, at).await?;
            while let Some(entry) = stream.try_next().await? {
                entries.push((entry.key, entry.value));
            }
            return Ok(entries);
        }
        let mut start: Option<Vec<u8>> = None;
        loop {
            let keys = methods.state_get_keys_paged(&prefix, PAGE, start.as_deref(), Some(at)).await?;
            if !keys.is_empty() {
                let changes =
                    methods.state_query_storage_at(keys.iter().map(Vec::as_slice), Some(at)).await?;
                let found = changes.into_iter().flat_map(|change| change.changes);
                entries.extend(found.filter_map(|(key, value)| Some((key.0, value?.0))));
            }
            if keys.len() < PAGE as usize {
                return Ok(entries);
            }
            start = keys.into_iter().next_back();
        }
    }
}

/// A question to a node, which can be asked again.
pub(super) type Call<T> = dyn Fn(Node) -> BoxFuture<'static, Result<T, BackendError>> + Send + Sync;

/// The connection in use.
#[derive(Debug)]
pub(super) struct Connections {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Connection>>,
    /// The endpoint to connect to next.
    next: usize,
    /// The highest head, and when it was seen first.
    head: Option<(BlockNumber, Instant)>,
}

impl Connections {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes a call on the connection in use; on the next endpoint if that one
    /// does not answer, until each has been tried.
    pub(super) async fn call<T>(&self, operation: &str, cx: &CallContext, call: &Call<T>) -> Result<T> {
        let mut last = None;
        for _ in 0..=self.settings.endpoints.len() {
            let connection = self.connected(operation, cx).await?;
            let answer = tokio::time::timeout(self.settings.call_timeout, call(connection.node.clone()));
            let error = match cx.run(operation, answer).await {
                Ok(Ok(Ok(value))) => return Ok(value),
                Ok(Ok(Err(error))) if is_connections(&error) => unavailable(operation, error.to_string()),
                Ok(Ok(Err(error))) => {
                    return Err(refusal(operation, &error).with("endpoint", &connection.endpoint));
                }
                Ok(Err(_)) => Error::new(ErrorKind::Timeout, operation, "the node did not answer in time"),
                Err(error) => {
                    if error.kind() == ErrorKind::Timeout {
                        self.give_up(&connection).await;
                    }
                    return Err(error);
                }
            };
            self.give_up(&connection).await;
            last = Some(error.with("endpoint", &connection.endpoint));
        }
        Err(last.unwrap_or_else(|| unavailable(operation, "there is no endpoint")))
    }

    /// Notes the finalised head that a node has told. A head that has not
    /// moved for too long ends the connection.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] for a node that is behind or stands still.
    pub(super) async fn seen(&self, operation: &str, head: BlockNumber) -> Result<()> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        match state.head {
            Some((highest, since)) if head <= highest => {
                if now.duration_since(since) < self.settings.stall {
                    return Ok(());
                }
                // The next endpoint has the same time to show a new block.
                state.head = Some((highest, now));
                let endpoint = state.current.take().map(|connection| connection.endpoint.clone());
                state.next = (state.next + 1) % self.settings.endpoints.len().max(1);
                let message = format!("no new block for {} s", self.settings.stall.as_secs_f64());
                Err(unavailable(operation, message)
                    .with("endpoint", endpoint.unwrap_or_default())
                    .with("head", head)
                    .with("highest", highest))
            }
            _ => {
                state.head = Some((head, now));
                Ok(())
            }
        }
    }

    /// The connection in use, made if there is none.
    async fn connected(&self, operation: &str, cx: &CallContext) -> Result<Arc<Connection>> {
        let mut state = cx.run(operation, self.state.lock()).await?;
        if let Some(connection) = &state.current {
            return Ok(Arc::clone(connection));
        }
        let mut last = None;
        for _ in 0..self.settings.endpoints.len() {
            let index = state.next % self.settings.endpoints.len();
            let endpoint = &self.settings.endpoints[index];
            let made = tokio::time::timeout(self.settings.call_timeout, self.connect(operation, endpoint));
            let error = match cx.run(operation, made).await? {
                Ok(Ok(connection)) => {
                    state.next = index;
                    let connection = Arc::new(connection);
                    state.current = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                Ok(Err(error)) => error,
                Err(_) => Error::new(
                    ErrorKind::Timeout,
                    operation,
                    "the node did not accept the connection in time",
                ),
            };
            state.next = (index + 1) % self.settings.endpoints.len();
            last = Some(error.with("endpoint", endpoint));
        }
        Err(last.unwrap_or_else(|| unavailable(operation, "there is no endpoint")))
    }

    async fn connect(&self, operation: &str, endpoint: &str) -> Result<Connection> {
        let failed = |error: subxt::rpcs::Error| match error {
            subxt::rpcs::Error::InsecureUrl(_) => {
                Error::new(ErrorKind::ConfigInvalid, operation, "its address is not encrypted")
                    .with_hint("use wss://, or ws:// on this machine")
            }
            error => unavailable(operation, error.to_string()),
        };
        let client = RpcClient::from_url(endpoint).await.map_err(failed)?;
        let methods = LegacyRpcMethods::new(client.clone());
        let backend: Arc<dyn Backend<Substrate>> = match self.settings.backend {
            BackendKind::Legacy => Arc::new(LegacyBackend::<Substrate>::builder().build(client)),
            BackendKind::Chainhead => {
                Arc::new(ChainHeadBackend::<Substrate>::builder().build_with_background_driver(client))
            }
            BackendKind::Auto => {
                let built =
                    CombinedBackend::<Substrate>::builder().build_with_background_driver(client).await;
                Arc::new(built.map_err(|error| unavailable(operation, error.to_string()))?)
            }
        };
        let genesis =
            backend.genesis_hash().await.map_err(|error| unavailable(operation, error.to_string()))?;
        let genesis = BlockHash(genesis.0);
        if genesis != self.settings.genesis {
            return Err(Error::new(ErrorKind::Protocol, operation, "the node is on another chain")
                .with_fault(Fault::Operator)
                .with_retry(Retry::Never)
                .with("expected", self.settings.genesis)
                .with("found", genesis)
                .with_hint("check the endpoint, and `genesis`"));
        }
        Ok(Connection {
            endpoint: endpoint.to_owned(),
            node: Node { kind: self.settings.backend, backend, methods },
        })
    }

    /// Drops the connection, if it is still the one in use.
    async fn give_up(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            state.current = None;
            state.next = (state.next + 1) % self.settings.endpoints.len().max(1);
        }
    }
}

/// Whether the error says something about the connection, and nothing about
/// the question.
fn is_connections(error: &BackendError) -> bool {
    use subxt::rpcs::Error as Rpc;
    match error {
        BackendError::Rpc(RpcError::ClientError(error)) => matches!(
            error,
            Rpc::Client(_) | Rpc::DisconnectedWillReconnect(_) | Rpc::Deserialization(_) | Rpc::Decode(_)
        ),
        BackendError::Rpc(_) => true,
        _ => false,
    }
}

/// What a node has refused.
fn refusal(operation: &str, error: &BackendError) -> Error {
    let text = error.to_string();
    let lower = text.to_lowercase();
    let gone =
        ["state already discarded", "unknown block", "unknownblock", "not pinned", "header was not found"];
    if gone.iter().any(|words| lower.contains(words)) {
        return Error::new(ErrorKind::NotFound, operation, "the node no longer has the state of this block")
            .with_fault(Fault::Infrastructure)
            .with_hint("name an archive node under `archive`");
    }
    Error::new(ErrorKind::Protocol, operation, text)
}

pub(super) fn unavailable(operation: &str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, operation, message)
}

/// Code and message of the JSON-RPC error that a submission met.
pub(super) fn rpc_error(error: &BackendError) -> Option<(i32, String)> {
    match error {
        BackendError::Rpc(RpcError::ClientError(subxt::rpcs::Error::User(user))) => {
            let data = user.data.as_ref().map(|data| format!(": {data}")).unwrap_or_default();
            Some((user.code, format!("{}{data}", user.message)))
        }
        _ => None,
    }
}
