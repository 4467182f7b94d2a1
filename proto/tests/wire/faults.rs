//! Faults of stock tarpc that ours must not have.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use tarpc::client::RpcError;
use tarpc::{ServerError, context};
use task_proto::limits::Limits;
use tokio::net::UnixStream;

use crate::local;
use crate::support::*;

const LONG: Duration = Duration::from_hours(24);

#[test]
fn a_panic_is_answered_at_once() {
    local(async {
        let pair = pair(&Limits::default());
        let error = refusal(soon(pair.client.panic(within(LONG), "boom".into())).await);
        assert_eq!((error.kind, error.detail.as_str()), (ErrorKind::Other, "the handler panicked: boom"));
        assert_eq!(soon(pair.client.echo(within(LONG), vec![1.0])).await.unwrap(), [1.0]);

        let (ours, theirs) = UnixStream::pair().unwrap();
        stock_serve(theirs, 1 << 20, Handler::new().0);
        let stock = stock_connect(ours).0.panic(within(Duration::from_millis(100)), "boom".into()).await;
        assert!(matches!(stock, Err(RpcError::DeadlineExceeded)), "{stock:?}");
    });
}

#[test]
fn a_deadline_of_years_does_not_kill_the_server() {
    local(async {
        for deadline in [Duration::from_hours(3 * 365 * 24), Duration::new(u64::MAX, 999_999_999)] {
            let echo = ProbeRequest::Echo { values: vec![2.5] };
            let (ours, theirs) = UnixStream::pair().unwrap();
            serve(theirs, &Limits::default(), Handler::new().0.serve());
            let mut raw = Raw::new(ours);
            raw.send(request(7, deadline, &echo)).await;
            let reply = raw.reply().await.unwrap();
            assert_eq!(reply.request_id, 7);
            assert!(matches!(reply.message, Ok(ProbeResponse::Echo(values)) if values == [2.5]));

            let (ours, theirs) = UnixStream::pair().unwrap();
            let stock = stock_serve(theirs, 1 << 20, Handler::new().0);
            Raw::new(ours).send(request(7, deadline, &echo)).await;
            assert!(soon(stock).await.unwrap_err().is_panic());
        }
    });
}

#[test]
fn a_deadline_of_years_does_not_kill_the_client() {
    local(async {
        let years = within(Duration::from_hours(3 * 365 * 24));
        let pair = pair(&Limits::default());
        assert_eq!(soon(pair.client.echo(task_proto::wire::clamped(years), vec![1.0])).await.unwrap(), [1.0]);

        let (ours, theirs) = UnixStream::pair().unwrap();
        stock_serve(theirs, 1 << 20, Handler::new().0);
        let (stock, dispatch) = stock_connect(ours);
        assert!(stock.echo(years, vec![1.0]).await.is_err());
        assert!(soon(dispatch).await.unwrap_err().is_panic());
    });
}

#[test]
fn a_reply_over_the_limit_costs_its_caller_only() {
    local(async {
        let limits = Limits { frame: 4096, ..Limits::default() };
        let pair = pair(&limits);
        let error = refusal(soon(pair.client.grow(within(LONG), 10_000)).await);
        assert_eq!(error.kind, ErrorKind::InvalidData);
        assert!(error.detail.contains("limit of a frame, 4096 bytes"), "{error}");
        assert_eq!(soon(pair.client.grow(within(LONG), 3)).await.unwrap(), "xxx");

        let (ours, theirs) = UnixStream::pair().unwrap();
        stock_serve(theirs, 4096, Handler::new().0);
        let stock = stock_connect(ours).0;
        assert!(matches!(soon(stock.grow(within(LONG), 10_000)).await, Err(RpcError::Shutdown)));
        assert!(soon(stock.grow(within(LONG), 3)).await.is_err());
    });
}

#[test]
fn a_request_over_the_limit_fails_alone_and_is_never_sent() {
    local(async {
        let limits = Limits { frame: 4096, ..Limits::default() };
        let pair = pair(&limits);
        let error = soon(pair.client.echo(within(LONG), vec![0.5; 1000])).await.unwrap_err();
        assert!(told(&error).contains("never sent: the request is over the limit of a frame, 4096 bytes"));
        assert_eq!(soon(pair.client.echo(within(LONG), vec![1.0])).await.unwrap(), [1.0]);
    });
}

#[test]
fn a_request_that_cannot_be_decoded_is_answered_and_the_connection_goes_on() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        serve(theirs, &Limits::default(), Handler::new().0.serve());
        let mut raw = Raw::new(ours);
        raw.send(request(3, LONG, "NoSuchMethod")).await;
        let reply = raw.reply().await.unwrap();
        let error = reply.message.unwrap_err();
        assert_eq!((reply.request_id, error.kind), (3, ErrorKind::InvalidData));
        assert!(error.detail.contains("NoSuchMethod"), "{error}");
        raw.send(request(4, LONG, ProbeRequest::Grow { bytes: 2 })).await;
        assert!(matches!(raw.reply().await.unwrap().message, Ok(ProbeResponse::Grow(text)) if text == "xx"));
    });
}

#[test]
fn a_frame_that_cannot_be_answered_closes_the_connection_with_the_reason_once_all_others_are_answered() {
    local(async {
        for (bytes, reason) in [
            (framed(b"\xc1 is no MessagePack"), "no message of this protocol"),
            (framed(&[0x91].repeat(100_000)), "no message of this protocol"),
            (vec![0, 0xff, 0xff, 0xff], "a frame is over the limit of 1048576 bytes"),
        ] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (handler, mut events) = Handler::new();
            let end = serve(theirs, &Limits::default(), handler.clone().serve());
            let ours = ours.into_std().unwrap();
            let mut by_hand = ours.try_clone().unwrap();
            let mut raw = Raw::new(UnixStream::from_std(ours).unwrap());
            raw.send(request(1, LONG, ProbeRequest::Wait { name: 1 })).await;
            soon(events.recv()).await.unwrap();
            by_hand.write_all(&bytes).unwrap();
            // What came whole before is answered; what comes after it is refused.
            // (Who waits for room in the socket hears of it only when that is closed.)
            let refused = async {
                while by_hand.write(&[0]).err().is_none_or(|error| error.kind() == ErrorKind::WouldBlock) {
                    tokio::task::yield_now().await;
                }
            };
            soon(refused).await;
            handler.release.add_permits(1);
            assert_eq!(raw.reply().await.unwrap().request_id, 1);
            let notice = raw.reply().await.unwrap();
            let told = notice.message.unwrap_err().detail;
            assert!(notice.request_id == u64::MAX && told.contains(reason), "{told}");
            assert!(matches!(soon(end).await.unwrap(), End::Failed));

            let (ours, theirs) = UnixStream::pair().unwrap();
            stock_serve(theirs, 1 << 20, Handler::new().0);
            let ours = ours.into_std().unwrap();
            ours.try_clone().unwrap().write_all(&bytes).unwrap();
            let (stock, _) = stock_connect(UnixStream::from_std(ours).unwrap());
            let told = self::told(&soon(stock.wait(within(LONG), 1)).await.unwrap_err());
            assert!(!told.contains(reason), "{told}");
        }
    });
}

#[test]
fn the_kind_of_an_error_survives() {
    local(async {
        let kinds =
            [ErrorKind::NotFound, ErrorKind::Other, ErrorKind::UnexpectedEof, ErrorKind::QuotaExceeded];
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fail = move |_, n: u32| async move {
            Err::<(), _>(ServerError::new(kinds[n as usize], "detail".into()))
        };
        serve(theirs, &Limits::default(), tarpc::server::serve(fail));
        let client = connect::<u32, ()>(ours, &Limits::default());
        for (n, kind) in (0..).zip(kinds) {
            let error = refusal(soon(client.call(context::current(), n)).await);
            assert_eq!((error.kind, error.detail.as_str()), (kind, "detail"));
        }

        // Stock tarpc writes it as i32 and reads it as u32, which differ in formats without type marks.
        let stock = postcard::to_stdvec(&ServerError::new(ErrorKind::TimedOut, String::new())).unwrap();
        assert_ne!(postcard::from_bytes::<ServerError>(&stock).unwrap().kind, ErrorKind::TimedOut);
    });
}

#[test]
fn numbers_that_are_not_finite_arrive_as_they_are() {
    local(async {
        let pair = pair(&Limits::default());
        let sent = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::from_bits(1)];
        let got = soon(pair.client.echo(within(LONG), sent.to_vec())).await.unwrap();
        assert_eq!(got.into_iter().map(f64::to_bits).collect::<Vec<_>>(), sent.map(f64::to_bits));

        let json = serde_json::to_string(&sent).unwrap();
        assert!(serde_json::from_str::<Vec<f64>>(&json).is_err(), "{json}");
    });
}

#[test]
fn a_stock_client_calls_our_server_and_ours_a_stock_server() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        serve(theirs, &Limits::default(), Handler::new().0.serve());
        let stock = stock_connect(ours).0;
        assert_eq!(soon(stock.echo(within(LONG), vec![1.5, -2.0])).await.unwrap(), [1.5, -2.0]);
        assert_eq!(refusal(soon(stock.panic(within(LONG), "boom".into())).await).kind, ErrorKind::Other);

        let (ours, theirs) = UnixStream::pair().unwrap();
        stock_serve(theirs, 1 << 20, Handler::new().0);
        let client = ProbeClient::from(connect(ours, &Limits::default()));
        assert_eq!(soon(client.echo(within(LONG), vec![1.5, -2.0])).await.unwrap(), [1.5, -2.0]);
    });
}
