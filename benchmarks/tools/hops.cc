/* The ns-3 side of benchmarks/sim_hops.py: a tree of learning bridges with hosts that send UDP at a constant rate.
 *
 *   hops KIND SWITCHES HOSTS PEER_OFFSET PACKETS_PER_SECOND PAYLOAD SECONDS RATE_BPS DELAY_NS
 *
 * KIND is csma (CsmaNetDevice, ns-3's Ethernet) or simple (SimpleNetDevice, its lightest link). Switch 0 is the core, the others hang
 * from it; hosts are spread evenly over the others (or sit on switch 0 if it is alone). Host i sends to host (i + PEER_OFFSET) % HOSTS.
 * Everybody has learned and resolved everybody he needs before the clock of the measurement starts.
 * Prints: datagrams delivered, CPU seconds of the measured part (one thread).
 */
#include "ns3/applications-module.h"
#include "ns3/bridge-module.h"
#include "ns3/core-module.h"
#include "ns3/csma-module.h"
#include "ns3/internet-module.h"
#include "ns3/network-module.h"
#include <ctime>
#include <iostream>

using namespace ns3;

static uint64_t g_delivered = 0;

static void Receive(Ptr<Socket> socket) {
    while (Ptr<Packet> packet = socket->Recv()) g_delivered++;
}

struct Sender {
    Ptr<Socket> socket;
    Time interval;
    uint32_t payload;
    void Send() {
        socket->Send(Create<Packet>(payload));
        Simulator::Schedule(interval, &Sender::Send, this);
    }
};

int main(int argc, char** argv) {
    if (argc != 10) return 2;
    const bool csma = std::string(argv[1]) == "csma";
    const uint32_t switches = std::stoul(argv[2]), hosts = std::stoul(argv[3]), offset = std::stoul(argv[4]);
    const uint64_t pps = std::stoull(argv[5]);
    const uint32_t payload = std::stoul(argv[6]);
    const double seconds = std::stod(argv[7]);
    const DataRate rate(std::stoull(argv[8]));
    const Time delay = NanoSeconds(std::stoll(argv[9]));

    CsmaHelper csmaHelper;
    csmaHelper.SetChannelAttribute("DataRate", DataRateValue(rate));
    csmaHelper.SetChannelAttribute("Delay", TimeValue(delay));
    SimpleNetDeviceHelper simpleHelper;
    simpleHelper.SetDeviceAttribute("DataRate", DataRateValue(rate));
    simpleHelper.SetChannelAttribute("Delay", TimeValue(delay));
    simpleHelper.SetNetDevicePointToPointMode(false);

    NodeContainer bridgeNodes(switches), hostNodes(hosts);
    std::vector<NetDeviceContainer> bridgePorts(switches);
    NetDeviceContainer hostDevices;
    auto link = [&](Ptr<Node> a, Ptr<Node> b) {
        NodeContainer ends(a, b);
        return csma ? csmaHelper.Install(ends) : simpleHelper.Install(ends);
    };
    for (uint32_t s = 1; s < switches; s++) {
        NetDeviceContainer ends = link(bridgeNodes.Get(0), bridgeNodes.Get(s));
        bridgePorts[0].Add(ends.Get(0));
        bridgePorts[s].Add(ends.Get(1));
    }
    for (uint32_t h = 0; h < hosts; h++) {
        const uint32_t s = switches == 1 ? 0 : 1 + h % (switches - 1);
        NetDeviceContainer ends = link(hostNodes.Get(h), bridgeNodes.Get(s));
        hostDevices.Add(ends.Get(0));
        bridgePorts[s].Add(ends.Get(1));
    }
    BridgeHelper bridge;
    for (uint32_t s = 0; s < switches; s++) bridge.Install(bridgeNodes.Get(s), bridgePorts[s]);

    InternetStackHelper internet;
    internet.SetIpv6StackInstall(false);
    internet.Install(hostNodes);
    Ipv4AddressHelper addresses("10.0.0.0", "255.255.0.0");
    Ipv4InterfaceContainer interfaces = addresses.Assign(hostDevices);

    const double start = 3.0;
    const Time interval = NanoSeconds(1000000000ULL / pps);
    std::vector<Sender> senders(hosts);
    for (uint32_t h = 0; h < hosts; h++) {
        Ptr<Socket> in = Socket::CreateSocket(hostNodes.Get(h), UdpSocketFactory::GetTypeId());
        in->Bind(InetSocketAddress(Ipv4Address::GetAny(), 9));
        in->SetRecvCallback(MakeCallback(&Receive));
        Ptr<Socket> out = Socket::CreateSocket(hostNodes.Get(h), UdpSocketFactory::GetTypeId());
        out->Connect(InetSocketAddress(interfaces.GetAddress((h + offset) % hosts), 9));
        senders[h] = Sender{out, interval, payload};
        /* one datagram each, well apart, so that ARP and the bridges have learned before the measurement */
        Simulator::Schedule(MilliSeconds(100) + MilliSeconds(4) * h, [out, payload] { out->Send(Create<Packet>(payload)); });
        Simulator::Schedule(Seconds(start) + NanoSeconds(interval.GetNanoSeconds() * h / hosts), &Sender::Send, &senders[h]);
    }
    Simulator::Stop(Seconds(start));
    Simulator::Run();
    g_delivered = 0;
    Simulator::Stop(Seconds(seconds));
    const std::clock_t begin = std::clock();
    Simulator::Run();
    const double used = double(std::clock() - begin) / CLOCKS_PER_SEC;
    std::cout << g_delivered << " " << used << std::endl;
    Simulator::Destroy();
    return 0;
}
