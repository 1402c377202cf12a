//! Tests of the client against the mock server. `selftest` has the faults.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mock::{Answer, Mock, MockRequest, Routes, Script, Step};
use super::*;

fn chat(tokens: u64) -> Request {
    let message = ChatMessage { role: "user", content: "Count.".into() };
    Request::chat(&[message], &Generation::exactly("mock", tokens))
}

fn answer(script: Script) -> Answer {
    let script = Arc::new(script);
    Box::new(move |_: &MockRequest| Arc::clone(&script))
}

fn mock(routes: impl IntoIterator<Item = (&'static str, Answer)>) -> Mock {
    let routes = routes.into_iter().map(|(name, answer)| (name.to_owned(), answer));
    Mock::start(routes.collect::<Routes>()).unwrap()
}

fn client(mock: &Mock, route: &str, limits: Limits) -> Client {
    let key = ApiKey::new("sk-S3CRET");
    Client::new(Endpoint::parse(&mock.url(route)).unwrap(), key, limits).unwrap()
}

/// The one request that the mock has served; it says so after the last byte.
fn served_one(mock: &Mock) -> mock::Served {
    for _ in 0..5000 {
        if let Some(served) = mock.served().pop() {
            return served;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no request was served");
}

fn quick(tokens: u64) -> Script {
    Script::generation(Duration::from_millis(2), Duration::from_millis(1), tokens)
}

#[test]
fn an_exchange_has_the_instants_the_counts_and_the_text() {
    let mock = mock([("m", answer(quick(3)))]);
    let client = client(&mock, "m", Limits::default());
    let scheduled = Instant::now() - Duration::from_millis(50);
    let exchange = runtime().unwrap().block_on(client.send(&chat(3), scheduled));
    assert_eq!((exchange.outcome(), &exchange.fault), (Outcome::Complete, &None));
    assert_eq!((exchange.content.as_str(), exchange.defects.len()), (" 0 1 2", 0));
    assert_eq!(exchange.completion_tokens(None), Some((3, CountSource::Usage)));
    assert_eq!(exchange.finish_reason.as_deref(), Some("length"));
    let line = &exchange.timeline;
    let classes: Vec<ChunkClass> = line.chunks.iter().map(|chunk| chunk.class).collect();
    use ChunkClass::{Content, Role};
    assert_eq!(classes, [Role, Content, Content, Content, ChunkClass::Usage]);
    assert!(!line.is_reused && line.lag().unwrap() >= Duration::from_millis(50));
    let [sent, first] = [line.sent.unwrap(), line.first_byte.unwrap()];
    assert!(scheduled < sent && sent < first && first < line.first_token.unwrap());
    assert_eq!(line.first_token, Some(line.chunks[1].at));
    assert_eq!(
        (line.first_answer_token, line.last_token),
        (line.first_token, Some(line.chunks[3].at))
    );
    assert!(line.chunks.is_sorted_by_key(|chunk| chunk.at) && line.chunks[4].at <= line.end);
    // The mock wrote each token before the client read it.
    let served = served_one(&mock);
    assert_eq!(served.request.id, exchange.id);
    let read = line.chunks[1..4].iter().map(|chunk| chunk.at);
    assert!(served.tokens.iter().zip(read).all(|(written, read)| *written <= read));
}

#[test]
fn a_connection_is_used_again_until_the_server_closes_it() {
    let mut last = quick(2);
    last.steps.push(Step::Close);
    let mock = mock([("open", answer(quick(2))), ("close", answer(last))]);
    let runtime = runtime().unwrap();
    for (route, expected) in [("open", [false, true, true]), ("close", [false, false, false])] {
        let client = client(&mock, route, Limits::default());
        let reused = expected.map(|_| {
            let exchange = runtime.block_on(async {
                let exchange = client.send(&chat(2), Instant::now()).await;
                // The end of the connection has to arrive.
                tokio::time::sleep(Duration::from_millis(50)).await;
                exchange
            });
            assert_eq!(exchange.fault, None);
            let line = exchange.timeline;
            assert_eq!(line.is_reused, line.set_up.is_zero());
            line.is_reused
        });
        assert_eq!(reused, expected, "{route}");
    }
}

/// Answers one request, hangs up on the second, and answers it on a new connection.
fn hang_up_on_the_second_request(listener: &std::net::TcpListener) {
    use std::io::{Read as _, Write as _};
    for requests in [2, 1] {
        let (mut stream, _) = listener.accept().unwrap();
        for at in 0..requests {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            if at == 0 {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
                write!(stream, "{head}content-length: 2\r\n\r\n{{}}").unwrap();
            }
        }
    }
}

#[test]
fn a_request_into_a_connection_that_the_server_closes_is_sent_again_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || hang_up_on_the_second_request(&listener));
    let client = Client::new(Endpoint::parse(&url).unwrap(), None, Limits::default()).unwrap();
    let runtime = runtime().unwrap();
    for resent in [false, true] {
        let exchange = runtime.block_on(client.send(&Request::models(), Instant::now()));
        assert_eq!(exchange.fault, None);
        let line = exchange.timeline;
        assert_eq!((line.is_resent, line.is_reused), (resent, false));
        assert!(!line.set_up.is_zero());
    }
    server.join().unwrap();
    // On a new connection the same end is a fault: no server listens any more, or none answers.
    let exchange = runtime.block_on(client.send(&Request::models(), Instant::now()));
    assert_eq!(exchange.fault.map(|fault| fault.name()), Some("connect-refused"));
}

#[test]
fn the_key_reaches_the_server_and_no_text() {
    let other = mock([]);
    let location = format!("location: {}\r\n", other.url("v1?key=S3CRET"));
    let mock = mock([
        ("wrong", answer(Script::error(401, "", "Incorrect API key: sk-S3CRET"))),
        ("moved", answer(Script::error(308, &location, ""))),
        ("type", answer(Script::whole(200, "", "text/sk-S3CRET", ""))),
    ]);
    let runtime = runtime().unwrap();
    for (route, says) in [
        ("wrong", "status 401: Incorrect API key: ***"),
        ("moved", "which is not followed; name that server instead"),
        ("type", "the content type is `text/***` instead of `text/event-stream`"),
    ] {
        let client = client(&mock, route, Limits::default());
        let exchange = runtime.block_on(client.send(&chat(2), Instant::now()));
        let message = exchange.fault.as_ref().unwrap().to_string();
        assert!(message.contains(says), "{message}");
        assert!(!format!("{exchange:?}").contains("S3CRET"), "{exchange:?}");
        assert!(served_one(&mock).request.has_authorization, "{route}");
    }
    assert!(other.served().is_empty(), "the redirect was followed");
}

#[test]
fn dropped_text_leaves_its_length_and_tokens_are_estimated_from_kept_text_only() {
    use super::mock::{chat_chunk, event};
    let texts: Vec<String> = [" a", " b"]
        .map(|text| event(&chat_chunk(&serde_json::json!({ "content": text }), Some("stop"))))
        .into();
    let body = Step::Write(mock::chunked(texts.concat() + "data: [DONE]\n\n"));
    let mock = mock([("m", answer(Script::stream([body])))]);
    let words = |text: &str| text.split_whitespace().count() as u64;
    let runtime = runtime().unwrap();
    for (text, content, tokens) in [
        (TextPolicy::Keep, " a b", Some((2, CountSource::Estimated))),
        (TextPolicy::Drop, "", None),
    ] {
        let client = client(&mock, "m", Limits { text, ..Limits::default() });
        let exchange = runtime.block_on(client.send(&chat(2), Instant::now()));
        assert_eq!((exchange.content.as_str(), exchange.text_bytes), (content, 4));
        assert_eq!(exchange.defects, [Defect::MissingUsage]);
        assert_eq!(exchange.completion_tokens(Some(&words)), tokens);
        assert_eq!(exchange.completion_tokens(None), None);
    }
}

#[test]
fn a_probe_says_what_it_cannot_find() {
    let models = |ids: &[&str]| {
        let data: Vec<_> = ids.iter().map(|id| serde_json::json!({ "id": id })).collect();
        let body = serde_json::json!({ "data": data }).to_string();
        answer(Script::whole(200, "", "application/json", &body))
    };
    let mock = mock([("two", models(&["a", "b"])), ("none", models(&[]))]);
    let runtime = runtime().unwrap();
    for (route, model, says) in [
        ("two", None, "has several models; name one with `--served-model-name`: a, b"),
        ("two", Some("aa"), "no model `aa` (did you mean `a`?); known are a, b"),
        ("none", None, "lists no model; name one"),
        ("missing", None, "does not answer `/v1/models`: status 404: no such route"),
        // A server that cannot list its models may still have the one that is named.
        ("missing", Some("a"), "does not answer `/v1/completions`: status 404: no such route"),
        // It answers everything with the list of models.
        ("two", Some("a"), "does not answer `/v1/completions`: the content type is"),
    ] {
        let client = client(&mock, route, Limits::default());
        let error = runtime.block_on(probe(&client, Api::Completions, model)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}
