from ipaddress import IPv4Network

from vnet.services.firewall.rules import AllowRule, FirewallConfig, RuleSet

PC, WEB = bytes((10, 20, 100, 16)), bytes((172, 17, 1, 26))
TCP, UDP, ICMP, GRE = 6, 17, 1, 47


def decide(
    rules: RuleSet, protocol: int = TCP, port: int = 80, source: bytes = PC, destination: bytes = WEB
) -> tuple[str, str]:
    verdict = rules.decide("office", "dmz", protocol, source + destination, port)
    return verdict.action, verdict.by


def test_the_policy_decides_what_no_rule_allows():
    for policy in ("drop", "accept", "reject"):
        rules = RuleSet(FirewallConfig(policy=policy))
        assert decide(rules) == (policy, "policy")
        assert rules.counters == {"policy": 1}


def test_an_empty_rule_allows_everything():
    rules = RuleSet(FirewallConfig(allow=(AllowRule(),)))
    for protocol in (TCP, UDP, ICMP, GRE):
        assert decide(rules, protocol) == ("accept", "rule 1")
    assert rules.counters == {"rule 1": 4, "policy": 0}


def test_the_first_rule_that_matches_is_counted():
    rules = RuleSet(FirewallConfig(allow=(AllowRule(protocol="udp"), AllowRule(protocol="tcp"), AllowRule())))
    assert decide(rules) == ("accept", "rule 2")
    assert rules.counters == {"rule 1": 0, "rule 2": 1, "rule 3": 0, "policy": 0}


def test_every_condition_must_hold():
    full = AllowRule(
        from_networks=("office",),
        to_networks=("internet", "dmz"),
        protocol="tcp",
        ports=((80, 80), (8000, 8080)),
        sources=(IPv4Network("10.20.100.16/32"),),
        destinations=(IPv4Network("172.17.1.0/24"),),
    )
    rules = RuleSet(FirewallConfig(allow=(full,)))
    assert decide(rules) == ("accept", "rule 1")
    assert decide(rules, port=8000) == decide(rules, port=8080) == ("accept", "rule 1")
    assert decide(rules, port=8081) == decide(rules, port=79) == ("drop", "policy")
    assert decide(rules, protocol=UDP) == ("drop", "policy")
    assert decide(rules, source=bytes((10, 20, 100, 17))) == ("drop", "policy")
    assert decide(rules, destination=bytes((172, 17, 2, 26))) == ("drop", "policy")
    assert rules.decide("dmz", "dmz", TCP, PC + WEB, 80).action == "drop"
    assert rules.decide("office", "lab", TCP, PC + WEB, 80).action == "drop"


def test_ports_mean_tcp_and_udp_only():
    rules = RuleSet(FirewallConfig(allow=(AllowRule(ports=((0, 65535),)),)))
    assert [decide(rules, protocol, 0)[0] for protocol in (TCP, UDP, ICMP, GRE)] == ["accept", "accept", "drop", "drop"]
