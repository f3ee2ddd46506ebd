//! The server: a thread of its own, connections side by side, a record of every request.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::{Action, Script, http};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Place in the order of arrival, from 0. A script must not look at it.
    pub sequence: usize,
    /// `GET` or `POST`.
    pub method: String,
    /// The path with its query, such as `/v1/chat/completions`.
    pub path: String,
    /// The headers, names as they came.
    pub headers: Vec<(String, String)>,
    /// The bytes of the body.
    pub raw: Vec<u8>,
    /// The body as JSON; `null` where it is none.
    pub body: Value,
    /// A hash of method, path and body, whatever the order of the body's keys.
    pub identity: u64,
    /// How often this identity has come, this time included: 1 for the first.
    pub occurrence: u32,
    /// When it had been read.
    pub at: SystemTime,
}

impl Recorded {
    /// Whether a conversation is asked for, and not the continuation of a text.
    pub fn is_chat(&self) -> bool {
        self.path.contains("/chat/")
    }

    /// The text of the prompt; of a conversation the contents of its messages, a line each.
    pub fn prompt(&self) -> String {
        if let Some(prompt) = self.body["prompt"].as_str() {
            return prompt.to_owned();
        }
        let messages = self.body["messages"].as_array();
        let contents = messages.into_iter().flatten();
        contents
            .filter_map(|message| message["content"].as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A running server; it stops when dropped.
pub struct Server {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Record {
    requests: Vec<Recorded>,
    occurrences: HashMap<u64, u32>,
}

impl Server {
    /// Listens on 127.0.0.1, at a port that the system picks.
    ///
    /// # Errors
    /// What the system says of the socket or the thread.
    pub fn start(script: impl Script) -> io::Result<Self> {
        Server::start_at(([127, 0, 0, 1], 0).into(), script)
    }

    /// Listens at `address`.
    ///
    /// # Errors
    /// What the system says of the socket or the thread.
    pub fn start_at(address: SocketAddr, script: impl Script) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let record = Arc::new(Mutex::new(Record::default()));
        let (stop, stopped) = oneshot::channel();
        let shared = record.clone();
        let serve = move || {
            // Dropping the runtime ends the connections that still hang.
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, Arc::new(script), shared) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("scripted-server".into())
            .spawn(serve)?;
        Ok(Server {
            address,
            record,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What a manifest writes as `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.record).requests.clone()
    }

    /// How many requests came.
    pub fn count(&self) -> usize {
        lock(&self.record).requests.len()
    }

    /// How many different requests came: [`Server::count`] less what was sent again.
    pub fn count_of_distinct(&self) -> usize {
        lock(&self.record).occurrences.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: StdListener, script: Arc<dyn Script>, record: Arc<Mutex<Record>>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, script.clone(), record.clone()));
            }
            // Out of file handles, for one: it passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection until it ends or breaks; a client sees the break, nobody else needs to.
async fn serve(
    mut stream: TcpStream,
    script: Arc<dyn Script>,
    record: Arc<Mutex<Record>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut pending = Vec::new();
    while let Some(incoming) = http::read(&mut stream, &mut pending).await? {
        let request = lock(&record).add(incoming);
        let action = script.action(&request);
        if !act(&mut stream, &request, action).await? {
            break;
        }
    }
    Ok(())
}

impl Record {
    fn add(&mut self, incoming: http::Incoming) -> Recorded {
        let body = serde_json::from_slice(&incoming.body).unwrap_or(Value::Null);
        let identity = identity(&incoming, &body);
        let occurrence = self.occurrences.entry(identity).or_default();
        *occurrence += 1;
        let request = Recorded {
            sequence: self.requests.len(),
            method: incoming.method,
            path: incoming.path,
            headers: incoming.headers,
            raw: incoming.body,
            body,
            identity,
            occurrence: *occurrence,
            at: SystemTime::now(),
        };
        self.requests.push(request.clone());
        request
    }
}

/// Acts; whether the connection can carry another request.
async fn act(stream: &mut TcpStream, request: &Recorded, mut action: Action) -> io::Result<bool> {
    while let Action::After(delay, then) = action {
        tokio::time::sleep(delay).await;
        action = *then;
    }
    let json = "application/json";
    match action {
        Action::Reply(reply) => {
            let body = reply.body(request).to_string();
            send(stream, 200, json, &[], body.as_bytes()).await?;
        }
        Action::Json(body) => {
            send(stream, 200, json, &[], body.to_string().as_bytes()).await?;
        }
        Action::Status {
            code,
            headers,
            body,
        } => send(stream, code, json, &headers, body.as_bytes()).await?,
        Action::Models(names) => {
            let data: Vec<Value> = names
                .iter()
                .map(|name| serde_json::json!({"id": name, "object": "model"}))
                .collect();
            let body = serde_json::json!({"object": "list", "data": data});
            send(stream, 200, json, &[], body.to_string().as_bytes()).await?;
        }
        Action::NotJson => {
            let page = b"<html><body><h1>Please sign in</h1></body></html>";
            send(stream, 200, "text/html", &[], page).await?;
        }
        Action::CutAfter { bytes, reply } => {
            send_part(stream, request, &reply, bytes).await?;
            return Ok(false);
        }
        Action::StallAfter {
            bytes,
            reply,
            silence,
        } => {
            send_part(stream, request, &reply, bytes).await?;
            linger(stream, silence).await;
            return Ok(false);
        }
        Action::Hang(silence) => {
            linger(stream, silence).await;
            return Ok(false);
        }
        Action::Drop => return Ok(false),
        Action::Raw(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            return Ok(false);
        }
        Action::After(..) => unreachable!("waited for above"),
    }
    Ok(true)
}

async fn send(
    stream: &mut TcpStream,
    code: u16,
    content_type: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> io::Result<()> {
    let mut bytes = http::head(code, content_type, headers, body.len());
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await
}

async fn send_part(
    stream: &mut TcpStream,
    request: &Recorded,
    reply: &crate::Reply,
    bytes: usize,
) -> io::Result<()> {
    let body = reply.body(request).to_string();
    let mut part = http::head(200, "application/json", &[], body.len());
    part.extend_from_slice(&body.as_bytes()[..bytes.min(body.len())]);
    stream.write_all(&part).await?;
    stream.flush().await
}

/// Stays silent until the time is over or the client goes.
async fn linger(stream: &mut TcpStream, silence: Duration) {
    let mut sink = [0; 1024];
    let gone = async { while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(silence, gone).await;
}

/// FNV-1a over method, path and the body with its keys in order.
fn identity(incoming: &http::Incoming, body: &Value) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(incoming.method.as_bytes());
    hash.write(&[0]);
    hash.write(incoming.path.as_bytes());
    hash.write(&[0]);
    if body.is_null() {
        hash.write(&incoming.body);
    } else {
        hash.write_json(body);
    }
    hash.0
}

struct Fnv(u64);

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_json(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_by_key(|(key, _)| *key);
                self.write(b"{");
                for (key, value) in fields {
                    self.write(key.as_bytes());
                    self.write(b":");
                    self.write_json(value);
                    self.write(b",");
                }
                self.write(b"}");
            }
            Value::Array(items) => {
                self.write(b"[");
                for item in items {
                    self.write_json(item);
                    self.write(b",");
                }
                self.write(b"]");
            }
            scalar => self.write(scalar.to_string().as_bytes()),
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
