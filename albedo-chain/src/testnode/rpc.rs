//! JSON-RPC over WebSocket: the methods that every Substrate node has, as far
//! as a client of state, blocks and the pool needs them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value as Json, json};
use soketto::handshake::server::{Response, Server as Handshake};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::compat::TokioAsyncReadCompatExt;

use parity_scale_codec::{Decode, Encode};

use super::{Block, Chain, Pace, lock, nonce_of};

/// Accepts connections until it is dropped.
#[derive(Debug)]
pub(super) struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    pub(super) async fn start(chain: Arc<Mutex<Chain>>, asked: Arc<Notify>) -> (Self, SocketAddr) {
        #[expect(clippy::expect_used, reason = "a node for tests")]
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        #[expect(clippy::expect_used, reason = "a node for tests")]
        let address = listener.local_addr().expect("an address");
        let accept = async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&chain), Arc::clone(&asked)));
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the server holds the handle, and ends with it")]
        let task = tokio::spawn(accept);
        (Self(task), address)
    }
}

async fn serve(stream: TcpStream, chain: Arc<Mutex<Chain>>, asked: Arc<Notify>) {
    if lock(&chain).faults.dead {
        return;
    }
    // A message is written in parts: without this the second waits 40 ms for the
    // receipt of the first.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut handshake = Handshake::new(stream.compat());
    let Ok(key) = handshake.receive_request().await.map(|request| request.key()) else { return };
    if handshake.send_response(&Response::Accept { key, protocol: None }).await.is_err() {
        return;
    }
    let (mut sender, mut receiver) = handshake.into_builder().finish();
    let mut message = Vec::new();
    loop {
        message.clear();
        if receiver.receive_data(&mut message).await.is_err() {
            return;
        }
        let (dead, silent, garbage) = {
            let chain = lock(&chain);
            (chain.faults.dead, chain.faults.silent, chain.faults.garbage)
        };
        if dead {
            return;
        }
        if silent {
            continue;
        }
        let (answers, withheld) = if garbage {
            (vec!["{\"jsonrpc\": \"2.0\", ".to_owned()], false)
        } else {
            match serde_json::from_slice::<Json>(&message) {
                Ok(request) => {
                    let mut chain = lock(&chain);
                    (chain.answer(&request), chain.withholds())
                }
                Err(_) => return,
            }
        };
        asked.notify_waiters();
        if withheld {
            continue;
        }
        for answer in answers {
            if sender.send_text(answer).await.is_err() || sender.flush().await.is_err() {
                return;
            }
        }
    }
}

type Answer = Result<Json, (i32, &'static str, String)>;

impl Chain {
    /// Whether the answer to the last request is withheld.
    fn withholds(&self) -> bool {
        self.faults.silent_after.is_some_and(|requests| self.asked > requests)
    }

    /// The answer to a request, and what a subscription says next.
    fn answer(&mut self, request: &Json) -> Vec<String> {
        let method = request["method"].as_str().unwrap_or_default();
        *self.requests.entry(method.to_owned()).or_default() += 1;
        self.asked += 1;
        let parameters = request["params"].as_array().cloned().unwrap_or_default();
        let answer = self.call(method, &parameters);
        let mut answers = vec![
            match &answer {
                Ok(result) => json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
                Err((code, message, data)) => json!({
                    "jsonrpc": "2.0",
                    "id": request["id"],
                    "error": {"code": code, "message": message, "data": data}
                }),
            }
            .to_string(),
        ];
        if let ("author_submitAndWatchExtrinsic", Ok(id)) = (method, &answer) {
            let update = json!({
                "jsonrpc": "2.0",
                "method": "author_extrinsicUpdate",
                "params": {"subscription": id, "result": "ready"}
            });
            answers.push(update.to_string());
        }
        answers
    }

    fn call(&mut self, method: &str, parameters: &[Json]) -> Answer {
        let text = |index: usize| parameters.get(index).and_then(Json::as_str);
        let at = |index: usize| text(index).and_then(hash);
        let newest = self.head().hash;
        match method {
            "rpc_methods" => Ok(json!({"methods": [
                "chain_getBlockHash", "chain_getFinalizedHead", "chain_getHeader", "chain_getBlock", "state_call",
                "state_getStorage", "state_getKeysPaged", "state_queryStorageAt", "author_submitAndWatchExtrinsic",
            ]})),
            "chain_getBlockHash" => {
                let number = parameters.first().and_then(Json::as_u64).unwrap_or(self.head().number);
                if number == 0 && self.faults.other_genesis {
                    return Ok(json!(hex(&[9; 32])));
                }
                Ok(self.blocks.get(number as usize).map_or(Json::Null, |block| json!(hex(&block.hash))))
            }
            "chain_getFinalizedHead" => {
                if self.pace == Pace::Driven {
                    self.produce();
                }
                Ok(json!(hex(&self.finalized().hash)))
            }
            "chain_getHeader" => Ok(self.block(&at(0).unwrap_or(newest)).map_or(Json::Null, header)),
            "chain_getBlock" => Ok(self.block(&at(0).unwrap_or(newest)).map_or(Json::Null, |block| {
                let extrinsics: Vec<_> = block.extrinsics.iter().map(|bytes| hex(bytes)).collect();
                json!({"block": {"header": header(block), "extrinsics": extrinsics}, "justifications": null})
            })),
            "state_getStorage" => {
                let block = self.known(at(1).unwrap_or(newest))?;
                let value = text(0).map(unhex).and_then(|key| block.state.get(&key).cloned());
                Ok(value.map_or(Json::Null, |value| json!(hex(&value))))
            }
            "state_getKeysPaged" => {
                let block = self.known(at(3).unwrap_or(newest))?;
                let prefix = text(0).map(unhex).unwrap_or_default();
                let count = parameters.get(1).and_then(Json::as_u64).unwrap_or_default() as usize;
                let start = text(2).map(unhex);
                let keys = block.state.range(prefix.clone()..).map(|(key, _)| key);
                let keys = keys.take_while(|key| key.starts_with(&prefix));
                let after = keys.filter(|key| start.as_ref().is_none_or(|start| *key > start));
                Ok(after.take(count).map(|key| hex(key)).collect())
            }
            "state_queryStorageAt" => {
                let hash = at(1).unwrap_or(newest);
                let block = self.known(hash)?;
                let keys = parameters.first().and_then(Json::as_array).cloned().unwrap_or_default();
                let changes: Vec<_> = keys
                    .iter()
                    .filter_map(Json::as_str)
                    .map(|key| json!([key, block.state.get(&unhex(key)).map(|value| hex(value))]))
                    .collect();
                Ok(json!([{"block": hex(&hash), "changes": changes}]))
            }
            "state_call" => {
                let block = self.known(at(2).unwrap_or(newest))?.clone();
                let arguments = text(1).map(unhex).unwrap_or_default();
                self.runtime_call(text(0).unwrap_or_default(), &arguments, &block)
            }
            "author_submitAndWatchExtrinsic" => self.submit(&text(0).map(unhex).unwrap_or_default()),
            "author_unwatchExtrinsic" => Ok(json!(true)),
            _ => Err((-32601, "Method not found", method.to_owned())),
        }
    }

    /// The block, if its state is kept.
    fn known(&self, hash: [u8; 32]) -> Result<&Block, (i32, &'static str, String)> {
        self.state(&hash)
            .ok_or_else(|| (4003, "Client error: UnknownBlock: State already discarded for", hex(&hash)))
    }

    fn runtime_call(&self, name: &str, arguments: &[u8], block: &Block) -> Answer {
        let runtime = &self.runtimes[block.runtime];
        let answer = match name {
            "Core_version" => runtime.version(),
            "Metadata_metadata_at_version" => {
                let wanted = u32::decode(&mut &*arguments).unwrap_or_default();
                // The version stands after four bytes of magic.
                let has = runtime.bytes.get(4).is_some_and(|version| u32::from(*version) == wanted);
                has.then(|| runtime.bytes.clone()).encode()
            }
            _ => {
                let Some((_, output)) = runtime.api(name) else {
                    return Err((4003, "Client error: Execution failed", format!("{name} is not exported")));
                };
                match name {
                    "AccountNonceApi_account_nonce" => {
                        let who = arguments.try_into().unwrap_or_default();
                        runtime.encode(output, &super::number(nonce_of(block, &who)))
                    }
                    "SubnetInfoRuntimeApi_get_metagraph" if asks(arguments, block) => {
                        Self::metagraph(runtime, block, output)
                    }
                    "SubnetInfoRuntimeApi_get_next_epoch_start_block" if asks(arguments, block) => {
                        let planned = block.subnet.epoch.1 + u64::from(block.subnet.tempo);
                        let next = block.subnet.pending.map_or(planned, |pending| pending.min(planned));
                        Some(next.max(block.number + 1)).encode()
                    }
                    _ => None::<u8>.encode(),
                }
            }
        };
        Ok(json!(hex(&answer)))
    }

    fn submit(&mut self, bytes: &[u8]) -> Answer {
        self.sent += 1;
        if let Some((code, message)) = self.faults.refuse {
            return Err((code, message, String::new()));
        }
        let runtime = Arc::clone(&self.runtimes[self.head().runtime]);
        let mut next = self.head().clone();
        next.number += 1;
        if let Err(message) = self.validate(&runtime, &next, bytes) {
            return Err((1010, "Invalid Transaction", message));
        }
        if self.pool.iter().any(|pooled| pooled == bytes) {
            return Err((1013, "Transaction is already imported", String::new()));
        }
        if !self.faults.forget {
            self.pool.push(bytes.to_vec());
            if self.pace == Pace::Instant {
                self.produce();
            }
        }
        Ok(json!(format!("watch-{}", self.asked)))
    }
}

/// Whether the argument is the node's subnet.
fn asks(arguments: &[u8], block: &Block) -> bool {
    u16::decode(&mut &*arguments).is_ok_and(|netuid| netuid == block.subnet.netuid)
}

fn header(block: &Block) -> Json {
    json!({
        "parentHash": hex(&block.parent),
        "number": format!("{:#x}", block.number),
        "stateRoot": hex(&[0; 32]),
        "extrinsicsRoot": hex(&[0; 32]),
        "digest": {"logs": []},
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default();
    digits.chunks_exact(2).map(|pair| (digit(pair[0]) << 4 | digit(pair[1])) as u8).collect()
}

fn hash(text: &str) -> Option<[u8; 32]> {
    unhex(text).try_into().ok()
}
