//! The page in a real browser, in desktop and phone width and without findings of axe-core: it uploads and
//! plays a film, cancels a job, explains a failure, resumes an interrupted upload, and pauses the fleet.

use crate::support::page::{drive, shots};
use crate::support::system::Setup;

#[tokio::test]
async fn page_works_in_a_browser() {
    let system = Setup::default().workers(2).coming_and_going().start().await;
    let (well, said) = drive(&system.url).await;
    assert!(well, "{said}\n{}", system.log());
    assert!(said.contains("page_axe_violations 0"), "{said}");
    assert_eq!(std::fs::read_dir(shots()).unwrap().count(), 10, "{said}");
    system.stop().await;
}
