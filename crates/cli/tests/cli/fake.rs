//! A service that answers what a test tells it to, over plain HTTP/1.1 on loopback.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Undecoded path and query.
    pub target: String,
    /// Body.
    pub body: Vec<u8>,
    /// The `Authorization` header.
    pub authorization: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    /// What `Content-Length` says, where that is a lie.
    pub length: Option<usize>,
}

impl Reply {
    /// A JSON body.
    pub fn json(status: u16, body: &str) -> Self {
        Self { status, body: body.as_bytes().to_vec(), length: None }
    }

    /// A refusal.
    pub fn problem(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &format!(r#"{{"code":"{code}","message":"{message}","hint":"the hint"}}"#))
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// The service. Its threads end with their connections, and with the process.
pub struct Fake {
    /// Its address.
    pub url: String,
    /// Everything that was asked.
    pub requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Answers every request with what `handler` says.
    pub fn new(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (handler, log): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &*handler, &log));
            }
        });
        Self { url, requests }
    }

    /// Answers `METHOD path` with a status and a JSON body; anything else does not exist.
    pub fn canned(answers: &[(&str, u16, &str)]) -> Self {
        let answers: Vec<(String, u16, String)> = answers
            .iter()
            .map(|(of, status, body)| ((*of).to_owned(), *status, (*body).to_owned()))
            .collect();
        Self::new(move |request| {
            let asked = format!("{} {}", request.method, request.target);
            match answers.iter().find(|(of, ..)| *of == asked) {
                Some((_, status, body)) => Reply::json(*status, body),
                None => Reply::problem(404, "not_found", &format!("nothing answers {asked}")),
            }
        })
    }

    /// What was asked, as `METHOD target`.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.requests.lock().expect("no test panics with it");
        requests.iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }

    /// The body of the last request, as text.
    pub fn last_body(&self) -> String {
        let requests = self.requests.lock().expect("no test panics with it");
        String::from_utf8(requests.last().expect("a request").body.clone()).expect("text")
    }
}

fn serve(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) {
    let mut to = stream.try_clone().expect("a socket can be cloned");
    let mut from = BufReader::new(stream);
    while let Some(request) = read(&mut from) {
        let reply = handler(&request);
        log.lock().expect("no test panics with it").push(request);
        let length = reply.length.unwrap_or(reply.body.len());
        let head = format!(
            "HTTP/1.1 {} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
            reply.status
        );
        let lied = reply.length.is_some();
        if to.write_all(head.as_bytes()).and_then(|()| to.write_all(&reply.body)).is_err() || lied {
            return;
        }
    }
}

fn line(from: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    (from.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
}

fn read(from: &mut impl BufRead) -> Option<Request> {
    let first = line(from)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut chunked, mut authorization) = (0, false, String::new());
    loop {
        let header = line(from)?;
        let Some((name, value)) = header.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "transfer-encoding" => chunked = value == "chunked",
            "authorization" => authorization = value.to_owned(),
            _ => (),
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = usize::from_str_radix(&line(from)?, 16).ok()?;
            let start = body.len();
            body.resize(start + size, 0);
            from.read_exact(&mut body[start..]).ok()?;
            line(from)?;
            if size == 0 {
                break;
            }
        }
    } else {
        body.resize(length, 0);
        from.read_exact(&mut body).ok()?;
    }
    Some(Request { method, target, body, authorization })
}
