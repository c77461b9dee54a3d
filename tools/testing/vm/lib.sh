# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What the scripts here share. Sourced with $0 being one of them; a script elsewhere sets
# vmdir first.

# shellcheck disable=SC2034 # used by those who source this
me=$(basename "$0")
vmdir=$(cd "${vmdir-$(dirname "$0")}" && pwd -P)
repo=$(cd "$vmdir/../../.." && pwd -P)

# Which kernel: 6.12, the default, or 7.3. What is built for 6.12 is in build/ itself,
# as there was no other for long, and objects are good only where they were made.
KERNEL=${KERNEL:-6.12}
export KERNEL
case $KERNEL in
6.12) build=$repo/build ;;
7.3) build=$repo/build/$KERNEL ;;
*)
	echo "$me: KERNEL=$KERNEL in the environment: there are 6.12 and 7.3" >&2
	exit 1
	;;
esac
patches=$repo/patches/$KERNEL
# Debian's package of the kernel's source. That of 6.12 is installed; the other one is for
# another release of Debian, and is only downloaded and unpacked, see deps.
src=linux-source-$KERNEL
tarball=${NOPIN_TARBALL-/usr/src/$src.tar.xz}
if [ "$KERNEL" != 6.12 ] && [ ! -r "$tarball" ]; then
	tarball=$build/source/$src.tar.xz
fi

# Nothing that the user's locale or git configuration changes.
LC_ALL=C
export LC_ALL

die()
{
	echo "$me: $*" >&2
	exit 1
}

note()
{
	echo "$me: $*"
}

# What depends on the processor that a flavour is for.
target()
{
	# shellcheck disable=SC2034 # used by those who source this
	case $1 in
	arm64*) arch=arm64 cross=aarch64-linux-gnu- image=Image qemu=qemu-system-aarch64 ;;
	*) arch=x86 cross='' image=bzImage qemu=qemu-system-x86_64 ;;
	esac
}

# One lock for everything that changes build/linux or compiles from it. Scripts
# that call each other inherit it, and so does the user of
# "flock build/.lock make kernel".
lock()
{
	mkdir -p "$build"
	[ -z "${NOPIN_LOCK_HELD-}" ] || return 0
	exec 9>>"$build/.lock"
	if ! flock -n 9; then
		holder=$(cat "$build/.lock.holder" 2>/dev/null) || :
		note "waiting for ${holder:-another build} (build/.lock)"
		flock 9
	fi
	echo "$me (pid $$)" >"$build/.lock.holder"
	NOPIN_LOCK_HELD=1
	export NOPIN_LOCK_HELD
}

# The patches in the order of the series.
series()
{
	sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$patches/series"
}

# The files that a patch touches.
touched()
{
	sed -n 's|^+++ b/\([^[:cntrl:]]*\).*|\1|p' "$@"
}

# Build $1: make the targets behind $2, the file for make's output, by kmake(), a function
# of the caller that runs $exec make. Something to see every ten seconds, and nothing of a
# build that is quick. Sets pid while make runs, for the caller to kill; the number of
# objects compiled in n, and what it took in seconds.
compile()
{
	what=$1 log=$2 seconds=0 status=0
	shift 2
	start=$(date +%s)
	# shellcheck disable=SC2154 # the caller's
	total=$(cat "$out/.objects" 2>/dev/null) || :
	# Not a shell that waits for make: that one would die alone
	exec='exec'
	kmake -j"$(nproc)" "$@" >"$log" 2>&1 &
	pid=$! exec=
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		now=$(($(date +%s) - start))
		if [ "$now" -ge $((seconds + 10)) ]; then
			seconds=$now
			n=$(grep -c '^  CC' "$log") || :
			made=
			[ "$n" -eq 0 ] || made="$n${total:+ of at most $total} objects, "
			printf '%s: %s %3ds  %s%s\n' "$me" "$what" "$seconds" "$made" \
				"$(sed -n 's/^  [A-Z][A-Z0-9]*  *//p' "$log" | tail -n1)"
		fi
	done
	wait "$pid" || status=$?
	pid=
	if [ "$status" -ne 0 ]; then
		grep -n -E -A3 '(: (fatal )?error:|\*\*\* |undefined reference)' "$log" |
			head -n 60 >&2
		die "building $what failed, log in $log"
	fi
	seconds=$(($(date +%s) - start))
	n=$(grep -c '^  CC' "$log") || :
	[ "$n" -le "${total:-0}" ] || echo "$n" >"$out/.objects"
}

# Kernels are compiled with the same flags everywhere, and know nothing of time and place:
# the cache then serves one flavour with the objects of another, and a clone with those of
# another one. Sets cc and hostcc.
compiler()
{
	KBUILD_BUILD_TIMESTAMP=@0
	KBUILD_BUILD_USER=nopin
	KBUILD_BUILD_HOST=nopin
	export KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER KBUILD_BUILD_HOST
	unset KCONFIG_CONFIG MAKEFLAGS MAKELEVEL MAKEOVERRIDES CFLAGS LDFLAGS ARCH CROSS_COMPILE
	cc=${cross}gcc hostcc=gcc
	if command -v ccache >/dev/null; then
		cc="ccache $cc" hostcc="ccache $hostcc"
		CCACHE_BASEDIR=$repo
		CCACHE_NOHASHDIR=1
		CCACHE_SLOPPINESS=time_macros,include_file_mtime,include_file_ctime
		export CCACHE_BASEDIR CCACHE_NOHASHDIR CCACHE_SLOPPINESS
	fi
}
