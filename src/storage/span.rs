//! A span for each request to object storage; each attempt has its own.

use aws_sdk_s3::config::interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use crate::net::{RequestSpan, Shown};

/// Starts a span before a request is sent, and ends it when the headers of the response arrive.
#[derive(Debug)]
pub(super) struct Spans;

/// The span of the current attempt.
#[derive(Debug)]
struct Current(Option<RequestSpan>);

impl Storable for Current {
    type Storer = StoreReplace<Self>;
}

/// Number of attempts of one call so far.
#[derive(Debug)]
struct Tries(u32);

impl Storable for Tries {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Spans {
    fn name(&self) -> &'static str {
        "Spans"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        let tries = bag.load::<Tries>().map_or(0, |tries| tries.0);
        let span = request
            .uri()
            .parse()
            .ok()
            .map(|url| RequestSpan::begin(request.method(), &url, Shown::Path, tries));
        let state = bag.interceptor_state();
        state.store_put(Tries(tries.saturating_add(1)));
        state.store_put(Current(span));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Current(Some(span))) = bag.load::<Current>() {
            match context.response() {
                Some(response) => span.answered(response.status().as_u16()),
                None => span.failed("request"),
            }
        }
        bag.interceptor_state().store_put(Current(None));
        Ok(())
    }
}
