//go:build linux

package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"mgr/netproxy/rules"
)

// Of linux/netfilter/nf_tables.h.
const (
	nftNewChain  = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWCHAIN
	nftGetChain  = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN
	nftaTable    = unix.NFTA_CHAIN_TABLE
	nftaName     = unix.NFTA_CHAIN_NAME
	nfgenmsgSize = 4
)

// nftChains asks the kernel for the names of our chains, without their rules.
func nftChains() ([]rules.ID, error) {
	msgs, err := dumpChains()
	for range 5 {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		msgs, err = dumpChains()
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list nf_tables chains: %w", err)
	}
	var ids []rules.ID
	for _, m := range msgs {
		if len(m) < nfgenmsgSize {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nfgenmsgSize:])
		if err != nil {
			return nil, fmt.Errorf("list nf_tables chains: %w", err)
		}
		var id rules.ID
		for _, a := range attrs {
			switch a.Attr.Type {
			case nftaTable:
				id.Table = attrString(a)
			case nftaName:
				id.Name = attrString(a)
			}
		}
		if strings.HasPrefix(id.Name, rules.Prefix) && slices.Contains(rules.Tables(), id.Table) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func dumpChains() ([][]byte, error) {
	req := nl.NewNetlinkRequest(nftGetChain, unix.NLM_F_DUMP)
	req.AddRawData([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0})
	return req.Execute(unix.NETLINK_NETFILTER, nftNewChain)
}

func attrString(a syscall.NetlinkRouteAttr) string {
	return string(bytes.TrimRight(a.Value, "\x00"))
}
