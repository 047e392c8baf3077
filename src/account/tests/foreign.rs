//! Accounts that came with the hashes of other software.

use crate::account::testing::{World, client, secret};
use crate::account::{AccountError, stored_hash};
use crate::store::{Account, AccountKey, Change, PasswordHash, Store};

/// Of "correct horse battery", by werkzeug 1.0.1 and bcrypt 4.3.0.
const OLD: &str = "sha256$OBPefwSE$abeb96d42d919d4dabfd4b2b0a791ced6fb34979297d9006c84794610c6b6cc2";
const BCRYPT: &str = "$2b$04$DKlMljZoIgcrgzwVdj57.ubIysky3gst46zGSQXm2fED3IfJukW0K";
const TYPED: &str = "correct horse battery";

async fn stored(world: &World, name: &str) -> Account {
    let key = AccountKey::Name(name.parse().unwrap());
    world.store.account(key).await.unwrap().expect("an account")
}

/// Registers `name` and gives it the hash that came from elsewhere.
async fn moved_in(world: &World, name: &str, hash: &str) -> PasswordHash {
    world.register(name).await;
    let password = stored_hash(hash, &crate::account::testing::settings().auth.password).unwrap();
    let account = Account { password: password.clone(), ..stored(world, name).await };
    world.store.commit(vec![Change::UpdateAccount(account)]).await.unwrap();
    password
}

#[tokio::test]
async fn a_hash_from_elsewhere_is_replaced_at_the_first_login() {
    let world = World::new();
    for (name, hash) in [("old", OLD), ("crypt", BCRYPT)] {
        let before = moved_in(&world, name, hash).await;
        assert_eq!(world.try_login(name, "wrong password").await.err(), Some(AccountError::Credentials));
        assert_eq!(stored(&world, name).await.password, before, "a wrong password changes nothing");

        world.try_login(name, TYPED).await.unwrap();
        let after = stored(&world, name).await;
        assert!(after.password.phc().starts_with("$argon2id$"), "{name}");
        world.try_login(name, TYPED).await.unwrap();
        assert_eq!(stored(&world, name).await.password, after.password, "{name}: once is enough");
        assert_eq!(world.try_login(name, "wrong password").await.err(), Some(AccountError::Credentials));
    }
}

#[tokio::test]
async fn whoever_asks_again_for_the_password_takes_a_hash_from_elsewhere() {
    let world = World::new();
    moved_in(&world, "crypt", BCRYPT).await;
    let caller = world.caller(&world.try_login("crypt", TYPED).await.unwrap());
    moved_in(&world, "other", OLD).await;
    let other = world.caller(&world.try_login("other", TYPED).await.unwrap());
    let from = client("192.0.2.1");
    let changed =
        world.accounts.change_password(&caller, &secret(TYPED), &secret("another long one"), &from).await;
    assert!(changed.is_ok());
    assert!(world.try_login("crypt", "another long one").await.is_ok());
    assert_eq!(
        world.accounts.delete_me(&other, &secret("wrong"), &from).await,
        Err(AccountError::Credentials)
    );
}

#[tokio::test]
async fn once_the_prices_are_learned_no_failed_login_tells_who_has_an_old_hash() {
    let world = World::with(|s| s.auth.throttle.failures = 0);
    world.register("new").await;
    moved_in(&world, "old", OLD).await;
    moved_in(&world, "crypt", BCRYPT).await;
    world.accounts.learn_prices().await.unwrap();
    let mut price = None;
    for name in ["nobody", "new", "old", "crypt", "nobody"] {
        let before = world.accounts.hasher.done();
        assert_eq!(world.try_login(name, "wrong").await.err(), Some(AccountError::Credentials));
        let spent = world.accounts.hasher.done().less(&before);
        assert_eq!(*price.get_or_insert(spent), spent, "{name}");
    }
}
