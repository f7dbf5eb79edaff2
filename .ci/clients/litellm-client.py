"""litellm before a server of albedo: URL of the routes as the first argument."""

import importlib.metadata
import sys

import litellm

litellm.telemetry = False
server = {"api_base": sys.argv[1], "api_key": "none", "timeout": 100, "num_retries": 0}
ask = {"messages": [{"role": "user", "content": "ballotbox: test_votes fails"}], "max_tokens": 24, "seed": 7}

for temperature in (0, 1):
    options = {**server, **ask, "model": "openai/king", "temperature": temperature}
    whole = litellm.completion(**options)
    chunks = list(litellm.completion(**options, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content, (text, whole)
    assert len(chunks) > 3 and whole.usage.completion_tokens > 3
    rebuilt = litellm.stream_chunk_builder(chunks, messages=ask["messages"])
    assert rebuilt.choices[0].finish_reason == whole.choices[0].finish_reason

likely = litellm.completion(**server, **ask, model="openai/king", temperature=0, logprobs=True, top_logprobs=2)
assert len(likely.choices[0].logprobs.content[0].top_logprobs) == 2
raw = litellm.text_completion(**server, model="text-completion-openai/king", prompt="THOUGHT: I", max_tokens=8, temperature=0)
assert raw.choices[0].text, raw

for options, expected in (
    ({"model": "openai/nobody"}, litellm.NotFoundError),
    ({"model": "openai/king", "temperature": 3}, litellm.BadRequestError),
    ({"model": "openai/king", "messages": [{"role": "user", "content": "word " * 5000}]}, litellm.ContextWindowExceededError),
):
    try:
        litellm.completion(**{**server, **ask, **options})
    except expected as error:
        assert type(error) is expected, type(error)
    else:
        raise AssertionError(f"no {expected.__name__} for {options}")
print(f"litellm {importlib.metadata.version('litellm')}: replies, streams and errors are as it expects")
