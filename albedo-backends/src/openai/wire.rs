//! What is asked, in the protocol of chat completions.

use albedo_core::{GenerateRequest, ResponseFormat};
use serde_json::{Value, json};

use super::OpenAiConfig;

/// The body that asks for `request` of `model`.
pub(super) fn body(config: &OpenAiConfig, model: &str, request: &GenerateRequest) -> Value {
    let GenerateRequest { messages, sampling, max_new_tokens, seed, response, log_probs, .. } = request;
    let messages: Vec<_> = (messages.iter())
        .map(|message| json!({ "role": message.role.as_str(), "content": message.content }))
        .collect();
    let mut body = json!({
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        // Servers differ in how long a seed they take; all take 31 bits.
        "seed": seed & 0x7fff_ffff,
        "stream": config.stream,
    });
    body[&config.max_tokens_key] = json!(max_new_tokens);
    if config.stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    if sampling.top_k > 0 {
        body["top_k"] = json!(sampling.top_k);
    }
    if let Some(likeliest) = log_probs {
        body["logprobs"] = json!(true);
        body["top_logprobs"] = json!(likeliest);
    }
    match response {
        ResponseFormat::Text => {}
        ResponseFormat::Json => body["response_format"] = json!({ "type": "json_object" }),
        ResponseFormat::Schema { name, schema } => {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": { "name": name, "strict": true, "schema": schema },
            });
        }
    }
    for (key, value) in &config.extra {
        body[key] = value.clone();
    }
    body
}
