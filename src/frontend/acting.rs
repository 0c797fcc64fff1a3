//! Runs a call on behalf of its caller, and ends it when the caller may no longer call.
//!
//! [`Gate`] finds the caller from a request's headers. [`Acting`] is the call's future, and [`ActingBody`] its answer; what they poll
//! finds the caller by itself.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    audit,
    auth::{Presented, Scope, Secret},
    connections,
    domain::{Address, Fault, FaultKind, Protection},
    service::{Holder, Keyring, Service},
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Finds the callers of a port.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inside>);

struct Inside {
    service: Service,
    /// Whether a path is for everybody.
    is_open: fn(&str) -> bool,
}

impl Gate {
    /// The gate of a port; none if no caller is known, so that there is nothing to find. `is_open` names the paths of probes.
    pub(super) fn of(service: &Service, is_open: fn(&str) -> bool) -> Option<Self> {
        service.knows_callers().then(|| Self(Arc::new(Inside { service: service.clone(), is_open })))
    }

    /// The caller that makes a request; `None` if anybody may.
    ///
    /// # Errors
    /// [`FaultKind::Unauthenticated`] for a credential that is not good, or if one is needed; [`FaultKind::Denied`] if it may not call
    /// for the tenant that it names; [`FaultKind::Overloaded`] if it uses as many connections as it may.
    pub(super) fn find(&self, path: &str, headers: &HeaderMap) -> Result<Option<Arc<Holder>>, Fault> {
        if (self.0.is_open)(path) {
            return Ok(None);
        }
        self.known(headers).inspect_err(audit::refused)
    }

    fn known(&self, headers: &HeaderMap) -> Result<Option<Arc<Holder>>, Fault> {
        let service = &self.0.service;
        let Some(holder) = service.recognise(&presented(headers)?)? else { return Ok(None) };
        let holder = service.on_behalf(holder, |name| headers.get(name).map(HeaderValue::as_bytes))?;
        holder.claim_connection()?;
        Ok(Some(holder))
    }
}

/// Lets those read metrics who may.
#[derive(Debug, Clone)]
pub struct MetricsGate(Keyring);

impl MetricsGate {
    /// Among these callers.
    #[must_use]
    pub const fn new(keyring: Keyring) -> Self {
        Self(keyring)
    }

    /// Whether a request comes from one that may.
    ///
    /// # Errors
    /// [`FaultKind::Unauthenticated`] without a good credential, [`FaultKind::Denied`] without the scope.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let found = presented(headers).and_then(|presented| self.0.recognise(&presented));
        let permitted = found.and_then(|holder| match holder {
            Some(holder) => holder.entry().permit(Scope::Metrics, None),
            None => Err(Fault::new(FaultKind::Unauthenticated, "metrics need a credential with the scope metrics")),
        });
        permitted.inspect_err(audit::refused)
    }
}

/// What a request on this task's connection presents.
fn presented(headers: &HeaderMap) -> Result<Presented<'_>, Fault> {
    let Protection { is_encrypted, certificate } = connections::protection();
    Ok(Presented {
        authorization: only(headers, &header::AUTHORIZATION)?,
        api_key: only(headers, &API_KEY)?,
        subprotocols: only(headers, &header::SEC_WEBSOCKET_PROTOCOL)?,
        certificate,
        is_private: is_encrypted || connections::peer().address == Address::Local,
    })
}

/// The header's one value. With two, a proxy and the server might disagree about which counts.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Secret<'a>, Fault> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        let message = format!("the request has more than one `{name}` header");
        return Err(Fault::new(FaultKind::Unauthenticated, message).with_field(name.to_string()));
    }
    Ok(Secret(first.map(HeaderValue::as_bytes)))
}

pin_project! {
    /// A call on behalf of its caller; a fault if the caller may no longer call.
    pub(super) struct Acting<F> {
        #[pin]
        call: F,
        holder: Arc<Holder>,
        ended: BoxFuture<'static, Fault>,
    }
}

impl<F> Acting<F> {
    pub(super) fn new(holder: Arc<Holder>, call: F) -> Self {
        let ended = Arc::clone(&holder).ended().boxed();
        Self { call, holder, ended }
    }
}

impl<F: Future> Future for Acting<F> {
    type Output = Result<F::Output, Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(fault) = this.ended.poll_unpin(cx) {
            return Poll::Ready(Err(fault));
        }
        this.holder.acting(|| this.call.poll(cx)).map(Ok)
    }
}

/// The last thing that a body says.
pub(super) type LastFrame<E> = fn(Fault) -> Result<Frame<Bytes>, E>;

/// An answer on behalf of its caller, which ends early if the caller may no longer call.
pub(super) struct ActingBody<B: Body> {
    /// Until it has ended.
    body: Option<B>,
    holder: Arc<Holder>,
    ended: BoxFuture<'static, Fault>,
    last: LastFrame<B::Error>,
}

impl<B: Body> ActingBody<B> {
    /// `last` is how an answer ends early.
    pub(super) fn new(holder: Arc<Holder>, body: B, last: LastFrame<B::Error>) -> Self {
        let ended = Arc::clone(&holder).ended().boxed();
        Self { body: Some(body), holder, ended, last }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ActingBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { body, holder, ended, last } = Pin::into_inner(self);
        let Some(open) = body else { return Poll::Ready(None) };
        if let Poll::Ready(fault) = ended.poll_unpin(cx) {
            // With it goes whatever it is an answer to.
            *body = None;
            return Poll::Ready(Some(last(fault)));
        }
        holder.acting(|| Pin::new(open).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
