//! What answers at each address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use common::cli;
use serde_json::{Value, json};

use super::body;
use super::catalog::Catalog;
use super::guard::Guard;
use super::metrics::Metrics;
use super::openai::{self, Chat, Completions, Endpoint, Fields, Problem, Sampling};
use super::page;
use super::queue::{Job, Queue};
use super::reply::Reply;

/// How many events of an answer wait for its client before the answer does.
const EVENTS: usize = 64;

/// What the handlers of all requests share.
pub(crate) struct Server {
    /// The models.
    pub catalog: Arc<Catalog>,
    /// The way to the thread that computes.
    pub queue: Queue,
    /// What the server has done.
    pub metrics: Arc<Metrics>,
    /// Who may ask.
    pub guard: Guard,
    /// Decides random choices of requests that do not say their seed, together with their number.
    pub seed: u64,
    /// The number of requests for answers.
    pub requests: AtomicU64,
}

/// Returns the addresses of the server.
pub(crate) fn router(server: Arc<Server>) -> Router {
    let protected = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/metrics", get(metrics))
        .route_layer(from_fn_with_state(server.clone(), expect_key));
    let open = Router::new().route("/health", get(async || json_response(&json!({"status": "ok"}))));
    protected
        .merge(open)
        .merge(page::router())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(server.clone(), expect_host))
        .layer(middleware::from_fn(log))
        .with_state(server)
}

async fn chat(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    answer(server, &Chat, &headers, body).await
}

async fn completions(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    answer(server, &Completions, &headers, body).await
}

/// Reads a request, lets it in where there is room, and answers it.
async fn answer(
    server: Arc<Server>,
    endpoint: &'static dyn Endpoint,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut fields = Fields::parse(&body::read(headers, body).await?)?;
    let model = find(&server.catalog, fields.optional::<String>("model")?.as_deref())?;
    let entry = &server.catalog.entries[model];
    let wanted = endpoint.take(&mut fields, &server.catalog)?;
    let sampling = Sampling::take(&mut fields, entry)?;
    fields.finish()?;
    let choices = wanted.prompts.len().saturating_mul(sampling.choices);
    let most = server.queue.capacity();
    if !(1..=most).contains(&choices) {
        return Err(Problem::field(
            "n",
            format_args!("1 to {most} answers in all expected, found {choices}"),
        ));
    }
    let Some(ticket) = server.queue.admit(choices) else {
        server.metrics.refused.add(1);
        let message = "the server writes and queues as many answers as it can; try again later";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, message));
    };
    let catalog = server.catalog.clone();
    let encode = move || {
        let prompts = wanted.prompts.into_iter();
        prompts
            .map(|prompt| catalog.encode(&catalog.entries[model], prompt))
            .collect::<common::Result<Vec<_>>>()
    };
    let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the prompt cannot be encoded");
    let prompts = tokio::task::spawn_blocking(encode).await.map_err(failed)?;
    let prompts = prompts.map_err(|error| Problem::of_request(&error))?;

    let request = server.requests.fetch_add(1, Ordering::Relaxed);
    let seed = sampling.seed.unwrap_or_else(|| server.seed.wrapping_add(request << 16));
    let (sender, events) = tokio::sync::mpsc::channel(EVENTS * choices);
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    for (index, prompt) in
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, sampling.choices)).enumerate()
    {
        server.queue.submit(Job {
            model,
            index,
            prompt: prompt.clone(),
            settings: sampling.settings.clone(),
            seed: seed.wrapping_add(index as u64),
            stops: sampling.stops.clone(),
            logprobs: wanted.logprobs,
            events: sender.clone(),
            _ticket: ticket.clone(),
        });
    }
    let reply = Reply {
        endpoint,
        id: format!("{}-{:x}-{request}", endpoint.id_prefix(), server.catalog.created),
        model: entry.id.clone(),
        created: now(),
        prompt_tokens,
        choices,
        events,
    };
    match sampling.stream {
        true => Ok(reply.stream(sampling.stream_usage)),
        false => reply.whole().await,
    }
}

/// Returns the number of the model that a request names.
fn find(catalog: &Catalog, id: Option<&str>) -> Result<usize, Problem> {
    catalog.find(id).ok_or_else(|| {
        let names: Vec<&str> = catalog.entries.iter().map(|entry| entry.id.as_str()).collect();
        let message = format!("there is no model {:?}; there are {}", id.unwrap_or(""), names.join(", "));
        Problem::new(StatusCode::NOT_FOUND, message).code("model_not_found")
    })
}

async fn models(State(server): State<Arc<Server>>) -> Response {
    json_response(&openai::list(&server.catalog))
}

async fn model(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(json_response(&openai::model(&server.catalog, find(&server.catalog, Some(&id))?)))
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], server.metrics.text()).into_response()
}

async fn unknown(method: Method, uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {method} {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}

async fn expect_key(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    server.guard.expect_key(request.headers())?;
    Ok(next.run(request).await)
}

async fn expect_host(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    server.guard.expect_host(request.headers())?;
    Ok(next.run(request).await)
}

/// Says with `--verbose` what was asked and how it was answered, and nothing of what was said.
async fn log(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    cli::verbose(format_args!("{method} {path}: {}", response.status().as_u16()));
    response
}

fn json_response(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The time in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
