from vnet.fabric.rng import RandomStreams
from vnet.services.nat.ports import ExternalPorts, PortPool

TCP, ICMP = 6, 1


def ports(protocol: int = TCP, seed: int = 0) -> ExternalPorts:
    return ExternalPorts(protocol, RandomStreams(seed).stream("router", "nat"))


def test_the_port_inside_is_kept_where_it_is_free():
    assert [ports().choose(port) for port in (1, 22, 1023, 1024, 40_001, 65_535)] == [1, 22, 1023, 1024, 40_001, 65_535]


def test_another_port_has_the_same_parity_and_range():
    pool = ports()
    for wanted in (22, 23, 40_000, 40_001):
        pool.choose(wanted)
        others = [pool.choose(wanted) for _ in range(50)]
        assert len(set(others)) == 50
        assert all(other is not None and other % 2 == wanted % 2 for other in others)
        assert all(other is not None and (other < 1024) == (wanted < 1024) for other in others)


def test_a_kind_is_used_up_to_the_last_port_and_no_further():
    pool = ports()
    chosen = [pool.choose(22) for _ in range(511)]
    assert sorted(port for port in chosen if port) == list(range(2, 1024, 2))
    assert pool.choose(22) is None
    assert pool.choose(24) is None
    assert pool.choose(23) == 23
    pool.give_back(600)
    assert pool.choose(22) == 600


def test_a_forwarded_port_is_never_chosen():
    pool = ports()
    pool.reserve(80)
    pool.reserve(80)
    assert 80 not in [pool.choose(80) for _ in range(510)]


def test_port_zero_is_nobodys_but_identifier_zero_is_one():
    assert ports().choose(0) not in (0, None)
    assert ports(ICMP).choose(0) == 0


def test_the_choice_follows_the_seed():
    def choices(seed: int) -> list[int | None]:
        pool = ports(seed=seed)
        return [pool.choose(5000) for _ in range(20)]

    assert choices(1) == choices(1) != choices(2)


def test_a_pool_is_a_permutation_whatever_happens():
    draw = RandomStreams(3).stream("test", "pool")
    pool = PortPool(10, 50, 2)
    taken: set[int] = set()
    for _ in range(5_000):
        port = 10 + 2 * draw.below(21)
        if draw.below(2) and taken:
            back = sorted(taken)[draw.below(len(taken))]
            pool.give_back(back)
            taken.remove(back)
        elif draw.below(2):
            found = pool.take_any(draw)
            assert (found is None) == (len(taken) == 21)
            if found is not None:
                assert found not in taken
                taken.add(found)
        elif port not in taken:
            pool.take(port)
            taken.add(port)
        assert pool.free == 21 - len(taken)
        assert [pool.is_free(p) for p in range(10, 51, 2)] == [p not in taken for p in range(10, 51, 2)]
    for port in list(taken):
        pool.give_back(port)
    assert pool.free == 21
