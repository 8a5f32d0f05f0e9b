"""A name server for tests that says what none should say; run it in a namespace: ``python dns_answers.py ADDRESS``."""

from __future__ import annotations

import socket
import sys

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

CODES = {"servfail": 2, "refused": 5, "notimp": 4, "formerr": 1, "none": 3, "deny": 3}
"""Response codes by the first label of a name."""


def answer(query: dns.message.Message) -> dns.message.Message | None:
    """Answer a query, or not, by the first label of its name."""
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.RA
    (question,) = query.question
    first = question.name.labels[0].decode().lower()
    is_four = question.rdtype == dns.rdatatype.A
    if first == "silent" or (first == "only4" and not is_four):
        return None
    if first in CODES:
        reply.set_rcode(CODES[first])
    elif (first == "half" and not is_four) or (first == "half6" and is_four):
        reply.set_rcode(dns.rcode.SERVFAIL)
    elif first == "mixed":
        reply.set_rcode(dns.rcode.NXDOMAIN if is_four else dns.rcode.NOERROR)
    elif first == "mixed6":
        reply.set_rcode(dns.rcode.NOERROR if is_four else dns.rcode.NXDOMAIN)
    elif first == "gone4":
        reply.set_rcode(dns.rcode.SERVFAIL if is_four else dns.rcode.NOERROR)
    elif first == "lame":
        reply.flags &= ~dns.flags.RA
    elif first in ("chain", "loop", "dangling"):
        end = {"chain": "www.example.", "loop": question.name.to_text(), "dangling": "gone.example."}[first]
        reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", "b.example."))
        reply.answer.append(dns.rrset.from_text("b.example.", 60, "IN", "CNAME", end))
        if first == "chain" and is_four:
            reply.answer.append(dns.rrset.from_text("www.example.", 60, "IN", "A", "192.0.2.80"))
    elif first in ("www", "half", "half6", "only4"):
        text = "192.0.2.80" if is_four else "2001:db8::80"
        reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", question.rdtype, text))
    return reply


def main() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((sys.argv[1], 53))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            octets, peer = sock.recvfrom(4096)
            reply = answer(dns.message.from_wire(octets))
            if reply is not None:
                sock.sendto(reply.to_wire(), peer)


if __name__ == "__main__":
    main()
