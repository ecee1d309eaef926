# SPDX-License-Identifier: LGPL-2.1-or-later
#
# vchan-vsock: `make help` lists what can be made.
#
# CC, CPPFLAGS, CFLAGS, LDFLAGS and LDLIBS are the user's: they come after the
# project's own flags and replace none of them.  Objects know the command that
# made them, and are made again when it changes.

PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR     ?= $(PREFIX)/bin
DATADIR    ?= $(PREFIX)/share
MANDIR     ?= $(DATADIR)/man
UNITDIR    ?= $(PREFIX)/lib/systemd/system
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
WERROR     ?= -Werror
INSTALL    ?= install
OBJCOPY    ?= objcopy

VERSION := $(shell cat VERSION)
ABI     := 1

comma := ,
# One word for the shell, whatever characters are in it.
quote = '$(subst ','\'',$(1))'

# Each kind of build has its own directory, so they can stand side by side.
BUILD ?= build$(if $(SANITIZE),-$(subst $(comma),-,$(SANITIZE)))

# Two flavours of the same library: all that differs is who drives a connection.
NAME    := vchan-vsock
SIMPLE  := $(NAME)-simple
FLAVOURS := $(NAME) $(SIMPLE)
DRIVER_$(NAME)   := thread
DRIVER_$(SIMPLE) := caller
HOW_$(SIMPLE)    := $(comma) without a thread

# Of a flavour: the names of its files.
soname   = lib$(1).so.$(ABI)
shared   = $(call soname,$(1)).$(VERSION)
linkname = lib$(1).so
archive  = lib$(1).a
files    = $(call shared,$(1)) $(call soname,$(1)) $(call linkname,$(1)) $(call archive,$(1))
LIBRARIES := $(foreach f,$(FLAVOURS),$(addprefix $(BUILD)/,$(call files,$(f))))

SOURCES := $(sort $(wildcard vchan/*.c))
COMMON  := $(filter-out $(BUILD)/vchan/driver_%.o,$(SOURCES:%.c=$(BUILD)/%.o))
objects  = $(COMMON) $(BUILD)/vchan/driver_$(DRIVER_$(1)).o
MAP     := vchan/libvchan.map

WARNINGS := -Wall -Wextra $(WERROR) -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wmissing-declarations -Wold-style-definition \
	-Wpointer-arith -Wcast-qual -Wwrite-strings -Wformat=2 -Wundef -Wvla \
	-Wnested-externs -Wredundant-decls -Wimplicit-fallthrough \
	-Wdate-time

ifneq ($(SANITIZE),)
# No -z defs: clang leaves the sanitizer's own symbols to the program.
CODE  := -O1 -g -fsanitize=$(SANITIZE) -fno-sanitize-recover=all \
	-fno-omit-frame-pointer
RULES :=
else
# Fortifying needs an optimiser, and says so loudly when there is none.
CODE  := -O2 -g -fstack-protector-strong -U_FORTIFY_SOURCE \
	$(if $(filter -O0,$(CFLAGS)),,-D_FORTIFY_SOURCE=2)
RULES := -Wl,-z,defs
endif

OUR_CPPFLAGS = -I. -D_GNU_SOURCE= -DVCHAN_VSOCK_VERSION='"$(VERSION)"'
OUR_CFLAGS   = -std=gnu11 $(WARNINGS) $(CODE) -fPIC -fvisibility=hidden -pthread
# nodelete: the library's thread and its atfork handlers outlive a dlclose.
OUR_LDFLAGS  = $(RULES) -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack \
	-Wl,-z,nodelete -Wl,--version-script=$(MAP)

TOOL_LDFLAGS = -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack

# What the compiler included, for the next run of make.
DEPENDS = -MMD -MP -MT $@ -MF $@.d
COMPILE = $(CC) $(OUR_CPPFLAGS) $(CPPFLAGS) $(OUR_CFLAGS) $(CFLAGS)
LINK    = $(CC) -shared $(OUR_CFLAGS) $(CFLAGS) $(OUR_LDFLAGS) $(LDFLAGS)

# `make V=1` shows the commands.
ifeq ($(V),1)
quiet :=
say   := @:
else
quiet := @
say   := @printf '  %-8s %s\n'
endif

# The command.  It has the library's objects inside, since it uses more of them than
# the library shows.
TOOL     := $(BUILD)/$(NAME)
TOOLS    := $(sort $(wildcard tools/*.c))
TOOL_OBJECTS := $(TOOLS:%.c=$(BUILD)/%.o)

all: lib $(TOOL)

lib: $(LIBRARIES)

help:
	@echo 'make             the library, shared and static, and the command, in $(BUILD)/'
	@echo 'make lib         without the command'
	@echo 'make install     into DESTDIR, PREFIX, LIBDIR, INCLUDEDIR, BINDIR, MANDIR, ...;'
	@echo '                 DATADIR, UNITDIR, SYSCONFDIR; VCHAN_DEFAULT=no leaves vchan.pc out'
	@echo 'make uninstall   take it away again'
	@echo 'make dist        the source as an archive, $(ARCHIVE)'
	@echo 'make deb         Debian packages, in $(BUILD)/deb/; DEBFLAGS for dpkg-buildpackage'
	@echo 'make rpm         RPM packages, in $(BUILD)/rpm/; RPMFLAGS for rpmbuild'
	@echo 'make demo        a real guest and its host talk; see the README'
	@echo 'make check       all tests, like ./run-tests'
	@echo 'make bench       what the API costs over a plain socket; see bench/run'
	@echo 'make soak        many channels, deaths and rebirths; SOAK_SECONDS=3600'
	@echo 'make unit        the unit tests, as programs in $(BUILD)/unit/'
	@echo 'make coverage    how much of vchan/ the tests on this machine execute'
	@echo 'make lint        clang-tidy, gcc -fanalyzer and cppcheck on everything'
	@echo 'make fuzz        all fuzzers, FUZZ_SECONDS and FUZZ_STEPS each; wants clang'
	@echo 'make clean       remove what was built'
	@echo
	@echo 'CC=clang, SANITIZE=address,undefined or =thread, BUILD=directory,'
	@echo 'WERROR= (warnings stay warnings), V=1 (show the commands);'
	@echo 'CPPFLAGS, CFLAGS, LDFLAGS and LDLIBS are added to our own.'

# The stamp holds the commands and the list of sources, and is touched only
# when they change.
FLAGS := $(BUILD)/flags
STAMP  = $(COMPILE) | $(LINK) $(LDLIBS) | $(SOURCES) $(TOOLS)
$(FLAGS): FORCE
	@mkdir -p $(@D)
	@printf '%s\n' $(call quote,$(STAMP)) | cmp -s - $@ || \
		printf '%s\n' $(call quote,$(STAMP)) > $@

$(BUILD)/vchan/%.o: vchan/%.c $(FLAGS) VERSION
	@mkdir -p $(@D)
	$(say) CC $@
	$(quiet)$(COMPILE) $(DEPENDS) -c -o $@ $<

$(BUILD)/tools/%.o: tools/%.c $(FLAGS) VERSION
	@mkdir -p $(@D)
	$(say) CC $@
	$(quiet)$(COMPILE) $(DEPENDS) -c -o $@ $<

$(TOOL): $(TOOL_OBJECTS) $(call objects,$(NAME)) $(FLAGS)
	$(say) LINK $@
	$(quiet)$(CC) $(OUR_CFLAGS) $(CFLAGS) $(TOOL_LDFLAGS) $(LDFLAGS) -o $@ $(TOOL_OBJECTS) \
		$(call objects,$(NAME)) $(LDLIBS)

# One flavour, from its objects; $(1) is its name.
#
# In the archive is one object in which everything hidden is local: a program that
# links it statically sees the API's names and no others.
define FLAVOUR
$(BUILD)/$(call shared,$(1)): $(call objects,$(1)) $(MAP) $(FLAGS)
	$$(say) LINK $$@
	$$(quiet)$$(LINK) -Wl,-soname,$(call soname,$(1)) -o $$@ $(call objects,$(1)) $$(LDLIBS)

$(BUILD)/$(call soname,$(1)): $(BUILD)/$(call shared,$(1))
	$$(quiet)ln -sf $(call shared,$(1)) $$@

$(BUILD)/$(call linkname,$(1)): $(BUILD)/$(call soname,$(1))
	$$(quiet)ln -sf $(call soname,$(1)) $$@

$(BUILD)/$(1).o: $(call objects,$(1)) $(FLAGS)
	$$(quiet)$$(CC) -r -nostdlib -o $$@ $(call objects,$(1))
	$$(quiet)$$(OBJCOPY) --localize-hidden $$@

$(BUILD)/$(call archive,$(1)): $(BUILD)/$(1).o
	$$(say) AR $$@
	$$(quiet)rm -f $$@
	$$(quiet)$$(AR) rcs $$@ $$<

# The unit tests link the objects, where the hidden symbols can be reached.
$(BUILD)/unit/$(DRIVER_$(1))/%: tests/unit/%.c $(call objects,$(1)) $(FLAGS)
	@mkdir -p $$(@D)
	$$(say) UNIT $$@
	$$(quiet)$$(COMPILE) $$(DEPENDS) $$(LDFLAGS) -o $$@ $$< $(call objects,$(1)) $$(UNIT_LDFLAGS) \
		$$(CMOCKA) $$(LDLIBS)

# So do the fuzzers.
$(BUILD)/fuzz/$(DRIVER_$(1))/%: tests/fuzz/%.c tests/fuzz/calls.c $(call objects,$(1)) $(FLAGS)
	@mkdir -p $$(@D)
	$$(say) FUZZ $$@
	$$(quiet)$$(COMPILE) $$(DEPENDS) $$(LDFLAGS) $$(FUZZER) -o $$@ $$< tests/fuzz/calls.c \
		-Wl,--wrap=syscall $(call objects,$(1)) $$(LDLIBS)
endef
$(foreach f,$(FLAVOURS),$(eval $(call FLAVOUR,$(f))))

UNITS := $(foreach f,$(FLAVOURS),$(patsubst tests/unit/%.c,$(BUILD)/unit/$(DRIVER_$(f))/%,\
	$(wildcard tests/unit/test_*.c)))
CMOCKA = $$(pkg-config --cflags --libs cmocka)

# This one has its own of what opens, binds and connects a vsock.
CROWDED := vsock_socket vsock_listen vsock_accept vsock_bind vsock_connect vsock_buffer
$(BUILD)/unit/%/test_crowd: UNIT_LDFLAGS = $(CROWDED:%=-Wl,--wrap=%)
# And this one has a clock of its own.
$(BUILD)/unit/%/test_engine: UNIT_LDFLAGS = -Wl,--wrap=clock_gettime -Wl,--wrap=nanosleep

unit: $(UNITS)

# AF_VSOCK made of Unix sockets, for what is preloaded into.
$(BUILD)/fake/vsock.so: tests/fake/vsock.c $(FLAGS)
	@mkdir -p $(@D)
	$(say) FAKE $@
	$(quiet)$(CC) -std=gnu11 $(WARNINGS) -O2 -g -fPIC -D_GNU_SOURCE= -shared -o $@ $< -ldl

# The library on top of it, with system calls that fail when told to.
WRAPPED := socket bind connect accept4 getsockname getpeername getsockopt setsockopt listen \
	shutdown epoll_create1 epoll_ctl epoll_wait eventfd timerfd_create poll ppoll nanosleep \
	mmap mremap madvise memfd_create ftruncate calloc pthread_create open ioctl fcntl write \
	recv send sendmsg recvmsg syscall
FAULT_SOURCES := tests/fault/lives.c tests/fault/inject.c tests/fake/vsock.c
FAULT_FLAGS = -DFAKE_WRAP -U_FORTIFY_SOURCE $(WRAPPED:%=-Wl,--wrap=%)
LIVES := $(foreach f,$(FLAVOURS),$(BUILD)/fault/lives-$(DRIVER_$(f)))

$(LIVES): $(FAULT_SOURCES) tests/fault/inject.h $(COMMON) $(FLAGS) \
		$(foreach f,$(FLAVOURS),$(BUILD)/vchan/driver_$(DRIVER_$(f)).o)
	@mkdir -p $(@D)
	$(say) FAULT $@
	$(quiet)$(COMPILE) $(LDFLAGS) $(FAULT_FLAGS) -o $@ $(FAULT_SOURCES) $(COMMON) \
		$(BUILD)/vchan/driver_$(@F:lives-%=%).o $(CMOCKA) $(LDLIBS)

fault-programs: $(LIVES)

# What reads the code instead of running it (tests/lint), each with the flags of the
# build.  A stamp means that the tool had nothing to say about that file.  clang-tidy
# knows printf and its like, but not what fortifying makes of them.
LIBRARY_C := $(SOURCES)
PROGRAMS_C := $(sort $(wildcard bench/*.c demo/*.c examples/*.c tools/*.c tests/*/*.c))
HEADERS := $(sort $(wildcard libvchan.h vchan/*.h bench/*.h examples/*.h tools/*.h tests/*/*.h))
LINT := $(BUILD)/lint
TIDY_RULES := .clang-tidy tests/.clang-tidy

lint: tidy analyze cppcheck

tidy: $(patsubst %.c,$(LINT)/%.tidy,$(LIBRARY_C) $(PROGRAMS_C))
$(LINT)/%.tidy: %.c $(HEADERS) $(TIDY_RULES) $(FLAGS)
	@mkdir -p $(@D)
	$(say) TIDY $<
	$(quiet)clang-tidy --quiet $< -- $(OUR_CPPFLAGS) -Itests $(OUR_CFLAGS) \
		-U_FORTIFY_SOURCE 2>$@.log || { cat $@.log >&2; exit 1; }
	$(quiet)touch $@

# gcc's, whatever compiler is used otherwise.
analyze: $(patsubst %.c,$(LINT)/%.analyze,$(LIBRARY_C))
$(LINT)/%.analyze: %.c $(HEADERS) tests/lint/analyze $(FLAGS)
	@mkdir -p $(@D)
	$(say) ANALYZE $<
	$(quiet)tests/lint/analyze $(OUR_CPPFLAGS) $(OUR_CFLAGS) -c -o $@.o $<
	$(quiet)touch $@

CPPCHECK_RULES := tests/lint/cppcheck.supp

cppcheck: $(LINT)/cppcheck
$(LINT)/cppcheck: $(LIBRARY_C) $(PROGRAMS_C) $(HEADERS) $(CPPCHECK_RULES) $(FLAGS)
	@mkdir -p $(@D)
	$(say) CPPCHECK
	$(quiet)cppcheck --quiet --error-exitcode=1 --std=c11 \
		--enable=warning,performance,portability,style,information \
		--suppressions-list=$(CPPCHECK_RULES) $(OUR_CPPFLAGS) \
		$(LIBRARY_C) $(PROGRAMS_C)
	$(quiet)touch $@

# Those named fuzz_* are libFuzzer's, which is clang's; their objects count what is
# covered, so they have a directory of their own.
fuzzers_of  = $(foreach d,thread caller,$(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/$(d)/%,$(1)))
FUZZERS    := $(call fuzzers_of,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
ENGINES    := $(call fuzzers_of,tests/fuzz/engine.c)
FUZZ_BUILD ?= build-fuzz
$(FUZZERS): FUZZER = -fsanitize=fuzzer

fuzzers: $(FUZZERS) $(ENGINES)

fuzz-programs:
	$(quiet)$(MAKE) CC=clang BUILD=$(FUZZ_BUILD) SANITIZE=address,undefined \
		CFLAGS='$(CFLAGS) -fsanitize=fuzzer-no-link' fuzzers

# So long each of libFuzzer's, and so many steps for each flavour and wire.
FUZZ_SECONDS ?= 300
FUZZ_STEPS   ?= 2000000
fuzz: fuzz-programs
	$(quiet)tests/fuzz/run $(FUZZ_BUILD) $(FUZZ_SECONDS) $(FUZZ_STEPS)

# The demo is a client like any other: the public header and -lvchan-vsock.
$(BUILD)/demo/vchan-demo: demo/demo.c $(LIBRARIES) $(FLAGS)
	@mkdir -p $(@D)
	$(say) DEMO $@
	$(quiet)$(COMPILE) $(DEPENDS) $(LDFLAGS) -o $@ $< -L$(BUILD) -l$(NAME) $(LDLIBS)

demo-program: $(BUILD)/demo/vchan-demo

# So is the benchmark.
BENCH := $(sort $(wildcard bench/*.c)) tools/traffic.c
BENCH_RING := $(BUILD)/vchan/ring.o # hidden in the library

BENCH_WITH_THREAD := $(BUILD)/bench/vchan-bench
BENCH_SIMPLE      := $(BUILD)/bench/vchan-bench-simple

$(BENCH_WITH_THREAD): BENCH_LIBRARY = -l$(NAME)
$(BENCH_SIMPLE): BENCH_LIBRARY = -DSIMPLE -l$(SIMPLE)

$(BENCH_WITH_THREAD) $(BENCH_SIMPLE): $(BENCH) bench/bench.h tools/traffic.h $(BENCH_RING) $(LIBRARIES) $(FLAGS)
	@mkdir -p $(@D)
	$(say) BENCH $@
	$(quiet)$(COMPILE) $(LDFLAGS) -o $@ $(BENCH) $(BENCH_RING) -L$(BUILD) $(BENCH_LIBRARY) $(LDLIBS)

bench-program: $(BENCH_WITH_THREAD) $(BENCH_SIMPLE)

TO_LIB     = $(call quote,$(DESTDIR)$(LIBDIR))
TO_PC      = $(call quote,$(DESTDIR)$(LIBDIR)/pkgconfig)
TO_BIN     = $(call quote,$(DESTDIR)$(BINDIR))
TO_COMPLETE = $(call quote,$(DESTDIR)$(DATADIR)/bash-completion/completions)
TO_UNIT    = $(call quote,$(DESTDIR)$(UNITDIR))
TO_POLICY  = $(call quote,$(DESTDIR)$(SYSCONFDIR)/$(NAME))
UNIT      := $(NAME)-relay.service
TO_INCLUDE = $(call quote,$(DESTDIR)$(INCLUDEDIR)/$(NAME))

# The manual.  A call, and a command that has no page of its own, is found by its name,
# too: NAME=PAGE.  The section is what a name ends in.
PAGES    := $(sort $(wildcard man/*.[1-8]))
CALLS    := $(shell sed -n 's/^\t\(libvchan_[a-z_]*\);/\1/p' $(MAP))
COMMANDS := listen connect addr list
ALIASES  := $(CALLS:%=%.3=libvchan.3) $(COMMANDS:%=$(NAME)-%.1=$(NAME).1)
MANUAL   := $(notdir $(PAGES)) $(foreach a,$(ALIASES),$(firstword $(subst =, ,$(a))))
section   = man$(patsubst .%,%,$(suffix $(1)))
TO_MAN    = $(call quote,$(DESTDIR)$(MANDIR))
TO_SECTIONS = $(foreach s,$(sort $(foreach p,$(MANUAL),$(call section,$(p)))),$(TO_MAN)/$(s))

# A path in a .pc file has its special characters escaped, and those of sed
# once more, since sed puts it there.
pc_path = $$(printf '%s' $(call quote,$(1)) | \
	sed -e "s/[] '\"&|();<>*?{}[]/\\\\&/g" -e 's/[\\&|]/\\&/g')
FILL_PC = sed -e "s|@PREFIX@|$(call pc_path,$(PREFIX))|; \
	s|@LIBDIR@|$(call pc_path,$(LIBDIR))|; \
	s|@INCLUDEDIR@|$(call pc_path,$(INCLUDEDIR))|; \
	s|@VERSION@|$(VERSION)|"

# The same for sed alone.
sed_text = $$(printf '%s' $(call quote,$(1)) | sed -e 's/[\&|]/\\&/g')

# vchan.pc says which vchan a machine uses by default.  Ours is known by this
# line; another library's is never touched.
OUR_DEFAULT = grep -qsx 'Requires: $(NAME)' $(TO_PC)/vchan.pc

define INSTALL_FLAVOUR
$(quiet)$(INSTALL) -m 644 $(BUILD)/$(call archive,$(1)) $(TO_LIB)/$(call archive,$(1))
	$(quiet)$(INSTALL) -m 755 $(BUILD)/$(call shared,$(1)) $(TO_LIB)/$(call shared,$(1))
	$(quiet)ln -sf $(call shared,$(1)) $(TO_LIB)/$(call soname,$(1))
	$(quiet)ln -sf $(call soname,$(1)) $(TO_LIB)/$(call linkname,$(1))
	$(quiet)$(FILL_PC) -e "s|@NAME@|$(1)|; s|@HOW@|$(HOW_$(1))|" $(NAME).pc.in > $(TO_PC)/$(1).pc
	$(quiet)chmod 644 $(TO_PC)/$(1).pc

endef

define UNINSTALL_FLAVOUR
$(quiet)rm -f $(TO_PC)/$(1).pc $(TO_LIB)/$(call linkname,$(1)) \
		$(TO_LIB)/$(call soname,$(1)) $(TO_LIB)/$(call soname,$(1)).* \
		$(TO_LIB)/$(call archive,$(1))

endef

install: all
	$(quiet)$(INSTALL) -d $(TO_LIB) $(TO_PC) $(TO_INCLUDE) $(TO_BIN) $(TO_COMPLETE) \
		$(TO_UNIT) $(TO_POLICY)
	$(quiet)$(INSTALL) -m 755 $(TOOL) $(TO_BIN)/$(NAME)
	$(quiet)$(INSTALL) -m 644 tools/completion.bash $(TO_COMPLETE)/$(NAME)
	$(quiet)sed -e "s|@BINDIR@|$(call sed_text,$(BINDIR))|g; \
		s|@SYSCONFDIR@|$(call sed_text,$(SYSCONFDIR))|g" tools/$(UNIT).in > $(TO_UNIT)/$(UNIT)
	$(quiet)chmod 644 $(TO_UNIT)/$(UNIT)
	$(quiet)if ! test -e $(TO_POLICY)/relay.policy; then \
		$(INSTALL) -m 644 tools/relay.policy $(TO_POLICY)/relay.policy; fi
	$(quiet)$(INSTALL) -m 644 libvchan.h $(TO_INCLUDE)/libvchan.h
	$(foreach f,$(FLAVOURS),$(call INSTALL_FLAVOUR,$(f)))
	$(quiet)$(INSTALL) -d $(TO_SECTIONS)
	$(quiet)for page in $(PAGES); do \
		$(INSTALL) -m 644 $$page $(TO_MAN)/man$${page##*.}/$${page##*/} || exit; done
	$(quiet)for alias in $(ALIASES); do page=$${alias#*=} name=$${alias%%=*}; \
		echo ".so man$${page##*.}/$$page" > $(TO_MAN)/man$${name##*.}/$$name && \
		chmod 644 $(TO_MAN)/man$${name##*.}/$$name || exit; done
ifneq ($(VCHAN_DEFAULT),no)
	$(quiet)if $(OUR_DEFAULT) || ! { test -e $(TO_PC)/vchan.pc || test -L $(TO_PC)/vchan.pc; }; then \
		$(FILL_PC) vchan.pc.in > $(TO_PC)/vchan.pc && \
		chmod 644 $(TO_PC)/vchan.pc; \
	else \
		echo 'vchan.pc: another library'\''s is there and stays; ask for $(NAME)' >&2; \
	fi
endif

uninstall:
	$(quiet)if $(OUR_DEFAULT); then rm -f $(TO_PC)/vchan.pc; fi
	$(foreach f,$(FLAVOURS),$(call UNINSTALL_FLAVOUR,$(f)))
	$(quiet)rm -f $(foreach p,$(MANUAL),$(TO_MAN)/$(call section,$(p))/$(p))
	$(quiet)rm -f $(TO_INCLUDE)/libvchan.h $(TO_BIN)/$(NAME) $(TO_COMPLETE)/$(NAME) \
		$(TO_UNIT)/$(UNIT)
	$(quiet)if cmp -s tools/relay.policy $(TO_POLICY)/relay.policy; then \
		rm -f $(TO_POLICY)/relay.policy; fi
	$(quiet)if test -d $(TO_POLICY); then rmdir --ignore-fail-on-non-empty $(TO_POLICY); fi
	$(quiet)if test -d $(TO_INCLUDE); then rmdir $(TO_INCLUDE); fi

# What is released: the files that git knows, as they are here.  The same files make the
# same archive, byte for byte, whatever the directory and the umask.
DIST    := $(NAME)-$(VERSION)
ARCHIVE := $(BUILD)/$(DIST).tar.gz
EPOCH    = $${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}

dist:
	$(quiet)mkdir -p $(BUILD)
	$(quiet)git ls-files -z > $(BUILD)/dist.files
	$(say) DIST $(ARCHIVE)
	$(quiet)tar --create --file=$(ARCHIVE:.gz=) --null --files-from=$(BUILD)/dist.files \
		--format=ustar --owner=0 --group=0 --numeric-owner --hard-dereference \
		--mode=u=rwX,go=rX --mtime=@$(EPOCH) --transform='s,^,$(DIST)/,S'
	$(quiet)gzip -9nf $(ARCHIVE:.gz=)

# Packages are made from that archive, where nothing of this tree is in the way, and
# nothing that was said to this make.
ALONE := env $(foreach v,MAKEFLAGS MFLAGS MAKELEVEL BUILD DESTDIR PREFIX LIBDIR INCLUDEDIR \
	BINDIR DATADIR MANDIR UNITDIR SYSCONFDIR SANITIZE V,-u $(v))

deb: dist
	$(quiet)rm -rf $(BUILD)/deb
	$(quiet)mkdir $(BUILD)/deb
	$(quiet)tar -C $(BUILD)/deb -xf $(ARCHIVE)
	$(quiet)cd $(BUILD)/deb/$(DIST) && $(ALONE) dpkg-buildpackage -us -uc $(DEBFLAGS)

rpm: dist
	$(quiet)$(ALONE) rpmbuild -ta --define '_topdir $(abspath $(BUILD)/rpm)' $(RPMFLAGS) $(ARCHIVE)

.PHONY: dist deb rpm

demo:
	$(quiet)./run-demo

check:
	$(quiet)./run-tests

coverage:
	$(quiet)tests/setup tests
	$(quiet)tests/coverage

bench:
	$(quiet)tests/setup bench
	$(quiet)$(MAKE) -s bench-program
	$(quiet)bench/run --json $(BUILD)/bench/results.json --plot $(BUILD)/bench

soak: all
	$(quiet)tests/setup tests
	$(quiet)$${PYTHON:-/usr/bin/python3} -B tests/programs.py
	$(quiet)tests/soak/run

clean:
	$(quiet)rm -rf build build-* $(BUILD)

FORCE:

.PHONY: all lib help unit demo-program bench-program install uninstall demo check bench \
	clean FORCE
.PHONY: fault-programs fuzzers fuzz-programs fuzz soak
.PHONY: lint tidy analyze cppcheck coverage
.DELETE_ON_ERROR:

-include $(addsuffix .d,$(SOURCES:%.c=$(BUILD)/%.o) $(TOOL_OBJECTS) $(UNITS) $(FUZZERS) $(ENGINES) $(BUILD)/demo/vchan-demo)
