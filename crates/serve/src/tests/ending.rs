//! How a server begins and ends.

use super::*;

/// More than a stop takes, with what it grants to texts.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn an_idle_server_stops_at_once() {
    let mut site = site();
    let held = site.connect();
    assert_eq!(site.get("/health").0, 200);
    let started = Instant::now();
    site.stop().unwrap();
    assert!(started.elapsed() < SOON);
    assert!(TcpStream::connect(site.address).is_err());
    drop(held);
}

#[test]
fn a_text_that_ends_soon_is_still_sent() {
    let mut site = site();
    let words = "a ".repeat(20);
    let stream = site.say_prompt(&words);
    site.wait_for_start(&words);
    site.stop().unwrap();
    let answer = rest(stream);
    assert!(answer.contains("data: [DONE]"), "{answer}");
}

#[test]
fn a_text_without_an_end_is_cut_and_those_who_wait_are_told() {
    let mut site = site();
    let running = site.say_prompt("on and on");
    site.wait_for_start("on and on");
    let waiting = site.say_prompt("a");
    assert!(site.waits(&waiting));
    site.stop().unwrap();
    site.wait_for_refusal();
    let answer = rest(running);
    assert!(answer.contains("the server is stopping"), "{answer}");
    assert!(!answer.contains("[DONE]"), "{answer}");
    let (status, _, _) = super::answer(waiting);
    assert_eq!(status, 503);
}

#[test]
fn a_lost_device_ends_the_server() {
    let mut site = site();
    let (status, error) = site.post("/v1/completions", &json!({"prompt": "lose the device"}));
    assert_eq!(
        (status, &error["error"]["message"]),
        (500, &json!("the device is lost"))
    );
    assert!(matches!(site.end(), Err(Error::Device(_))));
}

#[test]
fn a_model_that_panics_ends_the_server() {
    let mut site = site();
    let (status, error) = site.post("/v1/completions", &json!({"prompt": "panic"}));
    assert_eq!(
        (status, &error["error"]["type"]),
        (500, &json!("server_error"))
    );
    let error = site.end().unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");
}

/// A server that does not come to be.
fn fails(settings: Settings, build: crate::Build) -> String {
    let served = serve(settings, build, &|| false, &mut |_| {
        panic!("it has started")
    });
    served.unwrap_err().to_string()
}

fn nothing() -> crate::Build {
    Box::new(|| panic!("nothing is to be built"))
}

#[test]
fn a_taken_port_is_found_out_before_the_model_is_built() {
    let site = site();
    let mut settings = Settings::new(MODEL);
    settings.address = site.address;
    let error = fails(settings, nothing());
    assert!(error.contains(&site.address.to_string()), "{error}");
    assert!(error.contains("another --port"), "{error}");
}

#[test]
fn an_address_of_another_machine_is_refused() {
    let mut settings = Settings::new(MODEL);
    settings.address = "192.0.2.1:0".parse().unwrap();
    let error = fails(settings, nothing());
    assert!(error.contains("another --host"), "{error}");
}

#[test]
fn a_model_that_cannot_be_built_is_the_servers_error() {
    let mut settings = Settings::new(MODEL);
    settings.address.set_port(0);
    let error = fails(settings, Box::new(|| Err(Error::failed("no such folder"))));
    assert_eq!(error, "no such folder");
}

#[test]
fn a_stop_while_the_model_is_built_ends_the_server() {
    let mut settings = Settings::new(MODEL);
    settings.address.set_port(0);
    let build: crate::Build = Box::new(|| {
        sleep(HALF);
        Err(Error::failed("nobody waits for this"))
    });
    let started = Instant::now();
    serve(settings, build, &|| true, &mut |_| panic!("it has started")).unwrap();
    assert!(started.elapsed() < SOON);
}

const HALF: Duration = Duration::from_millis(500);
