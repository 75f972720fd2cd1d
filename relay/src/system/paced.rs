//! How much a relay may say to all others, in bytes: what one says is passed on to everybody, and two ways on which it says different things meet
//! in a third, which must not have to pass on more than is read there. What is beyond the allowance waits, and of what is about the same the newest:
//! what is thrown away is superseded by what is taken in later.
//!
//! A statement is on the account of its origin where that stands behind it: it is the latest of a stream that the origin advertises. Old graphs are
//! signed as well as new ones, and whoever passes them on again is to use up no allowance but its own: they are on the account of the neighbour.

use super::allowance::{Allowance, Terms};
use super::carried::{Carried, Installed, StreamId};
use super::statement::{self, Topic, is_newer};
use super::{RelaySystem, streams};
use crate::forward::label;
use link::Instant;
use node::control::Control;
use node::{PortId, Ports};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use topology::NodeName;

/// A dozen of the largest advertisements, and then one in less than a second; most are a hundredth of that.
const LINKS: Terms = Terms { at_once: 2 << 20, a_second: 256 << 10 };

/// Reports are small, and the count of them is bounded as well.
const TROUBLE: Terms = Terms { at_once: 1 << 20, a_second: 128 << 10 };

/// The graphs of five hundred streams over a hundred links each, all at once, or those of an overlay of a dozen relays every two seconds.
const GRAPHS: Terms = Terms { at_once: 4 << 20, a_second: 512 << 10 };

/// Most bytes that wait on one account, and on all. What waits takes several times that, decoded.
const MOST_WAITING: usize = 4 << 20;
/// The same of what no origin stands behind.
const MOST_BROUGHT: usize = 1 << 20;
const MOST_WAITING_OF_ALL: usize = 32 << 20;

/// What waits is looked at so often at a time for each account.
const MOST_LOOKED_AT: usize = 256;

/// On whose account something is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Account {
    Links(NodeName),
    Trouble(NodeName),
    Graphs(NodeName),
    /// Graphs of others that a neighbour brings, by whichever of its links.
    Brought(NodeName),
}

impl Account {
    fn most_waiting(&self) -> usize {
        if matches!(self, Account::Brought(_)) { MOST_BROUGHT } else { MOST_WAITING }
    }

    fn terms(&self) -> Terms {
        match self {
            Account::Links(_) => LINKS,
            Account::Trouble(_) => TROUBLE,
            Account::Graphs(_) | Account::Brought(_) => GRAPHS,
        }
    }
}

/// A statement that came, as it was said and as it is passed on.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) from: PortId,
    pub(super) said: Control,
    pub(super) message: Rc<Control>,
}

/// Who has said how much, and what waits.
#[derive(Debug, Default)]
pub(super) struct Paced {
    accounts: BTreeMap<Account, Ledger>,
    waiting: BTreeMap<Topic, (Account, Statement)>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Ledger {
    allowance: Allowance,
    /// What waits on it, in the order in which it came, and how many bytes that is.
    order: VecDeque<Topic>,
    bytes: usize,
}

impl Paced {
    fn take(&mut self, now: Instant, account: &Account, bytes: usize) -> bool {
        self.accounts.entry(account.clone()).or_default().allowance.take(now, bytes, account.terms())
    }

    /// Keeps a statement for later, where there is room.
    fn wait(&mut self, account: Account, topic: Topic, statement: Statement) -> bool {
        let bytes = statement::bytes(&statement.message);
        let ledger = self.accounts.entry(account.clone()).or_default();
        if ledger.bytes + bytes > account.most_waiting() || self.bytes + bytes > MOST_WAITING_OF_ALL {
            return false;
        }
        ledger.bytes += bytes;
        self.bytes += bytes;
        ledger.order.push_back(topic.clone());
        self.waiting.insert(topic, (account, statement));
        true
    }

    /// What was put last in an account's order is to be the next.
    fn put_first(&mut self, account: &Account) {
        if let Some(ledger) = self.accounts.get_mut(account)
            && let Some(last) = ledger.order.pop_back()
        {
            ledger.order.push_front(last);
        }
    }

    /// Puts a newer statement in the place of one that waits, where there is room.
    fn renew(&mut self, topic: &Topic, statement: Statement) -> bool {
        let Some((account, waiting)) = self.waiting.get_mut(topic) else { return false };
        let (less, more) = (statement::bytes(&waiting.message), statement::bytes(&statement.message));
        let ledger = self.accounts.entry(account.clone()).or_default();
        let (of_one, of_all) = (ledger.bytes - less + more, self.bytes - less + more);
        if of_one > account.most_waiting() || of_all > MOST_WAITING_OF_ALL {
            return false;
        }
        (ledger.bytes, self.bytes) = (of_one, of_all);
        *waiting = statement;
        true
    }

    /// Takes out what has waited longest on an account.
    fn next(&mut self, account: &Account) -> Option<(Topic, Statement)> {
        let ledger = self.accounts.get_mut(account)?;
        let topic = ledger.order.pop_front()?;
        let (_, statement) = self.waiting.remove(&topic)?;
        let bytes = statement::bytes(&statement.message);
        ledger.bytes -= bytes;
        self.bytes -= bytes;
        Some((topic, statement))
    }

    /// Accounts on which something waits.
    fn behind(&self) -> Vec<Account> {
        let behind = self.accounts.iter().filter(|(_, ledger)| !ledger.order.is_empty());
        behind.map(|(account, _)| account.clone()).collect()
    }

    /// Forgets who has been silent for long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.accounts.retain(|_, ledger| !ledger.order.is_empty() || !ledger.allowance.is_whole(now));
    }
}

impl RelaySystem {
    /// Takes in what a relay says to all others, or keeps it for later. `false` where it was out of bounds.
    pub(super) fn take_at_pace(&mut self, now: Instant, statement: Statement, ports: &mut Ports) -> bool {
        let Some(topic) = Topic::of(&statement.said) else { return false };
        // What waits is counted as it was encoded: empty modules take a byte each, and thirty decoded.
        if matches!(&statement.said, Control::Install(install) if !streams::is_bounded(install)) {
            return false;
        }
        // What is known goes no further.
        if !self.is_news(&statement.said) {
            return self.take_in(now, statement, ports);
        }
        let newer = self.paced.waiting.get(&topic).map(|(_, waiting)| is_newer(&statement.said, &waiting.said));
        match newer {
            Some(false) => {}
            // One of the two is thrown away.
            Some(true) => {
                self.paced.renew(&topic, statement);
                self.directory.note_excess();
            }
            None => {
                let account = self.account_of(&statement);
                if self.paced.take(now, &account, statement::bytes(&statement.message)) {
                    return self.take_in(now, statement, ports);
                }
                self.let_wait(account, topic, statement);
            }
        }
        true
    }

    /// What finds no room to wait is lost: of links and trouble the next refreshment says it again.
    fn let_wait(&mut self, account: Account, topic: Topic, statement: Statement) {
        let is_graph = matches!(topic, Topic::Graph(_));
        match self.paced.wait(account, topic, statement) {
            true => {}
            false if is_graph => self.refused.graphs += 1,
            false => self.directory.note_excess(),
        }
    }

    /// Takes in what has waited long enough, each account in the order in which it came.
    pub(super) fn take_waiting(&mut self, now: Instant, ports: &mut Ports) {
        for account in self.paced.behind() {
            for _ in 0..MOST_LOOKED_AT {
                let Some((topic, statement)) = self.paced.next(&account) else { break };
                if !self.is_news(&statement.said) {
                    continue;
                }
                // Of its origin more may be known than when it came.
                let payer = self.account_of(&statement);
                if self.paced.take(now, &payer, statement::bytes(&statement.message)) {
                    let taken = self.take_in(now, statement, ports);
                    self.refused.protocol += u64::from(!taken);
                    continue;
                }
                let is_spent = payer == account;
                self.let_wait(payer, topic, statement);
                if is_spent {
                    self.paced.put_first(&account);
                    break;
                }
            }
        }
    }

    fn take_in(&mut self, now: Instant, statement: Statement, ports: &mut Ports) -> bool {
        let Statement { from, said, message } = statement;
        match said {
            Control::Advertise(advertisement) => self.directory.receive(now, from, advertisement, message),
            Control::Trouble(report) => self.directory.receive_trouble(now, from, report, message),
            Control::Install(install) => {
                self.install(now, Some(from), Installed { install, message }, ports);
                true
            }
            _ => false,
        }
    }

    /// Whether a statement is one that would be passed on.
    fn is_news(&self, said: &Control) -> bool {
        let Control::Install(install) = said else { return self.directory.is_news(said) };
        let known = |carried: &Carried| {
            let is_it = |known: &Rc<Installed>| (known.boot, known.epoch) == (install.boot, install.epoch);
            carried.newest().is_some_and(|newest| install.boot < newest.boot) || carried.graphs().any(is_it)
        };
        install.ingress != *self.directory.me() && !self.carried.get(&StreamId::from(install)).is_some_and(known)
    }

    fn account_of(&self, statement: &Statement) -> Account {
        match &statement.said {
            Control::Advertise(ad) => Account::Links(ad.origin.clone()),
            Control::Trouble(report) => Account::Trouble(report.origin.clone()),
            Control::Install(install) => {
                let id = StreamId::from(install);
                let is_later = |known: &Rc<Installed>| {
                    install.boot > known.boot || install.boot == known.boot && label::later(install.epoch, known.epoch)
                };
                let is_latest = self.carried.get(&id).and_then(Carried::newest).is_none_or(is_later);
                let stands = self.directory.advertises(&id.ingress, &id.name, id.incarnation);
                if is_latest && stands { Account::Graphs(id.ingress) } else { self.brought(statement, &id.ingress) }
            }
            _ => self.brought(statement, self.name()),
        }
    }

    /// The account of who brings a statement; of `origin` where that one has gone.
    fn brought(&self, statement: &Statement, origin: &NodeName) -> Account {
        let peer = self.ports.get(&statement.from).map(|port| &port.peer.name);
        Account::Brought(peer.unwrap_or(origin).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::about::About;
    use topology::lsdb::Advertisement;

    fn statement(origin: &str, seq: u64, tags: usize) -> (Account, Topic, Statement) {
        let origin: NodeName = origin.parse().expect("valid");
        let links = (0..tags)
            .map(|nth| topology::lsdb::LinkState {
                peer: format!("peer-{nth:05}").parse().expect("valid"),
                delay_us: 1,
                loss_ppm: 0,
                cost: 1,
            })
            .collect();
        let said = Control::Advertise(Advertisement {
            origin: origin.clone(),
            boot: 1,
            seq,
            links,
            streams: Vec::new(),
            subscriptions: Vec::new(),
            draining: false,
            about: About::default(),
            terms: topology::terms::Terms::default(),
        });
        let message = Rc::new(said.clone());
        (Account::Links(origin.clone()), Topic::Links(origin), Statement { from: PortId(1), said, message })
    }

    fn wait(paced: &mut Paced, (account, topic, statement): (Account, Topic, Statement)) -> bool {
        paced.wait(account, topic, statement)
    }

    fn seq(statement: &Statement) -> u64 {
        match &statement.said {
            Control::Advertise(ad) => ad.seq,
            _ => 0,
        }
    }

    #[test]
    fn of_what_waits_the_newest_stays_and_its_bytes_are_counted() {
        let mut paced = Paced::default();
        for name in ["a", "b"] {
            assert!(wait(&mut paced, statement(name, 1, 10)));
        }
        let one = paced.bytes;
        let (account, topic, newer) = statement("a", 2, 100);
        assert!(paced.renew(&topic, newer));
        assert!(paced.bytes > one);
        assert_eq!(paced.next(&account).map(|(_, statement)| seq(&statement)), Some(2));
        assert!(paced.next(&account).is_none());
        let (other, ..) = statement("b", 1, 10);
        assert!(paced.next(&other).is_some());
        assert_eq!(paced.bytes, 0);
        paced.expire(Instant::from_micros(1));
        assert!(paced.accounts.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_for_each_and_for_all() {
        let mut paced = Paced::default();
        let mut kept = 0;
        for account in 0..40 {
            for nth in 0..1_000 {
                let (_, topic, large) = statement(&format!("r{account}-{nth}"), 1, 3_000);
                let brought = Account::Brought(format!("n{account}").parse().expect("valid"));
                if !paced.wait(brought.clone(), topic, large) {
                    break;
                }
                kept += 1;
                assert!(paced.accounts[&brought].bytes <= MOST_BROUGHT);
            }
        }
        assert!(paced.bytes <= MOST_WAITING_OF_ALL && paced.bytes > MOST_WAITING_OF_ALL - (1 << 20), "{kept}");
        // No newer one takes more room than there is.
        let (_, topic, larger) = statement("r0-0", 2, 15_000);
        assert!(!paced.renew(&topic, larger));
    }
}
