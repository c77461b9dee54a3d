#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Build the tests and run them in a virtual machine with the devices they want:
#
#	vm.sh pin|nopin FLAVOR [ARGUMENT of run.sh...]
#
# VM_RUN in the environment holds more options for tools/testing/vm/run. On arm64
# there is no persistent memory.

set -eu

here=$(dirname "$(readlink -f "$0")")
vmdir=$here/../../vm
# shellcheck source-path=SCRIPTDIR source=../../vm/lib.sh
. "$vmdir/lib.sh"

if [ $# -lt 2 ]; then
	sed -n '4,8s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
mode=$1 flavor=$2
shift 2
target "$flavor"

bin=$build/selftests pmem='--pmem 320M'
if [ "$arch" = arm64 ]; then
	root=$build/root-arm64
	[ -e "$root.made" ] || die "no $root: run $vmdir/deps arm64"
	bin=$bin-arm64 pmem=''
	make -s -C "$here" OUTPUT="$bin" CC="${cross}gcc --sysroot=$root"
else
	make -s -C "$here"
fi

# shellcheck disable=SC2086
exec "$vmdir/run" --flavor "$flavor" \
	--cpus 2 --nodes 2 --mem 6G \
	--disk virtio,size=512M \
	--disk nvme,size=640M \
	--disk nvme,size=128M \
	--disk virtio,size=96M,iops=200 \
	--disk virtio,size=256M,iops=1500 \
	--disk virtio,size=320M,iops=200 \
	--disk virtio,size=112M \
	--disk nvme,size=80M,iops=200 \
	$pmem \
	--append "hugepagesz=1G hugepages=1 nvme.poll_queues=1 null_blk.nr_devices=0 cma=64M" \
	--append "scsi_debug.dif=1 scsi_debug.dix=1" \
	--timeout 2700 ${VM_RUN-} -- \
	env NOPIN_BIN="$bin" "$here/run.sh" "$mode" "$@"
