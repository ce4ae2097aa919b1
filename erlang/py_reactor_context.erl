%% @doc A context: globals of Python, one reactor thread, and the connections that it serves.
%%
%% A context is an Erlang process that owns its thread: the death of the process, however it comes, closes the
%% connections and ends the thread. No byte of a connection passes through it. Wherever a context is asked for, its pid
%% will do and so will its number.
%%
%% `start_link' gives a context to the caller's own supervision; `py:context/1' and `py:start_contexts/1' start contexts
%% that the application supervises.
-module(py_reactor_context).

-export([start_link/2, start_link/3, stop/1, stop/2, drain/2, interrupt/1, stats/1, handoff/2, handoff/3]).
-export([connections/1, send/3, close/2, notify/3, monitor_connection/2, demonitor_connection/1]).
-export([request/2]).
-export_type([context/0, stats/0, connection/0, handle/0, connection_info/0, end_reason/0]).

%% For a thread that answers by itself when the time is over.
-define(DRAIN_MARGIN_MS, 100).

%% What the native half can read as a number.
-define(IS_NUMBER(N), (is_integer(N) andalso N >= 0 andalso N < 16#7FFFFFFFFFFFFFFF)).

-type context() :: pid() | py_options:id().
-type stats() :: #{
    connections := non_neg_integer(),
    transports := non_neg_integer(),
    accepted := non_neg_integer(),
    closed := non_neg_integer(),
    refused := non_neg_integer(),
    timed_out := non_neg_integer(),
    exceptions := non_neg_integer(),
    bytes_in := non_neg_integer(),
    bytes_out := non_neg_integer(),
    messages := non_neg_integer(),
    turns := non_neg_integer(),
    buffers_free := non_neg_integer(),
    buffers_lent := non_neg_integer(),
    buffers_copied := non_neg_integer(),
    tasks := non_neg_integer(),
    timers := non_neg_integer(),
    ready := non_neg_integer(),
    loop_lag := #{p50 := non_neg_integer(), p99 := non_neg_integer(), max := non_neg_integer()},
    backend := uring | epoll,
    backend_note := binary()
}.
%% `connections', `transports', `buffers_free', `buffers_lent', `tasks', `timers' and `ready' are counts of now, `loop_lag' is in
%% microseconds, the other numbers count since the start. A message
%% is one `data_received', a turn one round of the loop. `backend_note' says why a fallback is in use; it may be empty.

-type handle() :: {Fd :: non_neg_integer(), integer(), integer()}.
%% One connection and no other, ever: a number of a descriptor is used again. Only the first part means something. Python
%% knows it as `erlang.reactor.connection_handle(fd)'.
-type connection() :: Fd :: non_neg_integer() | handle().
-type connection_info() :: #{
    fd := non_neg_integer(),
    connection := handle(),
    client_info := map() | undefined,
    class := binary(),
    state := read | write | async | closing,
    peer_closed := boolean(),
    unread := non_neg_integer(),
    unsent := non_neg_integer(),
    received := non_neg_integer(),
    sent := non_neg_integer(),
    monitors := non_neg_integer()
}.
%% `client_info' is what Python has now, or `undefined' if that has no Erlang counterpart. `state' is the mode;
%% `peer_closed' says whether the peer sends no more. `unread'
%% bytes wait for the protocol, `unsent' for the peer; `received' and `sent' count bytes since the beginning;
%% `monitors' is how many watch it by {@link monitor_connection/2}.

-type end_reason() ::
    closed | peer_closed | reset | idle | stalled | exception | stopped | killed | noconnection | too_many_monitors | unreachable.
%% Why a connection has ended: the first cause that there was.

%% @doc As `start_link(Id, Mode, #{})'.
-spec start_link(py_options:id(), py_options:mode()) -> {ok, pid()} | {error, term()}.
start_link(Id, Mode) ->
    start_link(Id, Mode, #{}).

%% @doc Starts a context, and waits until its interpreter runs and `setup_code' has ended.
%%
%% The errors, none of which ends the caller: `{bad_option, Key, Value, Why}', `{bad_id, Id, Why}',
%% `{unsupported_mode, Mode, Why}', `{already_started, Pid}', `{setup_code, {python_error, #{type, message, traceback}}}'
%% when `setup_code' raises, `{start_timeout, Ms}', `{not_started, py_reactor, Reason}' when the application, which is
%% started on demand, cannot start; `{venv, Why}' when the interpreter has another virtual environment
%% already, or this one is incomplete; `{backend, Why}' when the backend cannot be used; `{cpu, Why}' when the process may not
%% use that CPU; or what the system refused.
-spec start_link(py_options:id(), py_options:mode(), py_options:options()) -> {ok, pid()} | {error, term()}.
start_link(Id, Mode, Options) ->
    case py_options:validate(Id, Mode, Options) of
        {ok, Complete} ->
            case py_reactor_on_demand:ensure_started() of
                ok -> py_context_server:start_link(Id, Mode, Complete);
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% @doc As {@link stop/2} with the context's own `drain_ms' (5000 ms unless it was set).
-spec stop(context()) ->
    ok | {error, {no_context, term()} | {remote_context, node(), binary()} | {would_deadlock, binary()}}.
stop(Context) ->
    stop(Context, default).

%% @doc Ends a context: nothing new is served, what protocols have written is delivered and connections are closed
%% properly, for at most `DrainMs' milliseconds; what is left then is cut off. Returns when all that is over, at the latest
%% four seconds after `DrainMs': Python code that has not returned by then is left behind with its thread, which the log
%% says. A context of the application's own supervisor is not started again.
-spec stop(context(), DrainMs :: non_neg_integer() | default) ->
    ok | {error, {no_context, term()} | {remote_context, node(), binary()} | {would_deadlock, binary()}}.
stop(Context, DrainMs) when DrainMs =:= default; is_integer(DrainMs), DrainMs >= 0 ->
    case py_context_lookup:pid(Context) of
        {ok, Pid} ->
            case {py_reactor_table:id(Pid), py_request:refused(Pid)} of
                {_, {error, _} = Error} -> Error;
                {{ok, Id}, ok} -> stop(Context, Pid, Id, DrainMs);
                {error, ok} -> {error, {no_context, Context}}
            end;
        {error, _} = Error when is_integer(Context) ->
            %% It may be one that fails again and again.
            case {py_context_sup:forget(Context, none), py_reactor_table:pid(Context)} of
                {ok, _} -> ok;
                %% It was just being started again.
                {{error, not_found}, {ok, _}} -> stop(Context, DrainMs);
                {{error, not_found}, error} -> Error
            end;
        {error, _} = Error ->
            Error
    end.

-spec stop(context(), pid(), py_options:id(), non_neg_integer() | default) -> ok | {error, {no_context, term()}}.
stop(Context, Pid, Id, DrainMs) ->
    Monitor = monitor(process, Pid),
    ok = py_context_server:ask_to_stop(Pid, DrainMs),
    receive
        {'DOWN', Monitor, process, Pid, noproc} ->
            %% Killed just now.
            case stay_away(Id, Pid) of
                ok -> ok;
                {error, not_found} -> {error, {no_context, Context}}
            end;
        {'DOWN', Monitor, process, Pid, _Reason} ->
            _ = stay_away(Id, Pid),
            ok
    end.

%% It is not to come back: neither after it was stopped, nor because it was killed meanwhile, or had just been started again.
-spec stay_away(py_options:id(), pid()) -> ok | {error, not_found}.
stay_away(Id, Pid) ->
    case py_context_sup:forget(Id, Pid) of
        ok -> ok;
        {error, not_found} -> py_context_sup:forget(Id, none)
    end.

%% @doc Lets a context run dry: from now on it takes no new connection (a handoff is answered `{error, draining}') and
%% reads nothing new; each connection is closed properly as soon as its protocol has dealt with what had arrived. Waits
%% until all are closed, at most `WithinMs' milliseconds, also if Python code does not return meanwhile; what is open then stays
%% open, for {@link stop/2} to end.
-spec drain(context(), WithinMs :: non_neg_integer()) ->
    ok | {error, {connections, pos_integer()} | {no_context, term()} | term()}.
drain(Context, WithinMs) when is_integer(WithinMs), WithinMs >= 0 ->
    case py_context_lookup:resolve(Context) of
        {ok, Pid, Ctx} ->
            Send = fun(Ref) -> py_nif:context_drain(Ctx, Ref, WithinMs) end,
            case py_request:run_within(Pid, Send, WithinMs + ?DRAIN_MARGIN_MS) of
                {ok, _None} -> ok;
                {error, timeout} -> drained(py_nif:stats(Ctx));
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% The thread has not looked yet, since Python code has not returned; but nothing new comes in since it was asked.
-spec drained(stats()) -> ok | {error, {connections, pos_integer()}}.
drained(#{connections := 0}) -> ok;
drained(#{connections := Open}) -> {error, {connections, Open}}.

%% @doc Ends the Python code that a context runs at this moment, a callback or a request, by raising
%% `erlang.reactor.Interrupted' in it. A callback loses its connection, as by any exception; who waits for a request gets
%% `{error, {python_error, Map}}'. It returns when the exception is raised, which may be before the code has ended.
%%
%% The exception comes between two steps of Python code. So a call of the system or of an extension module, such as
%% `time.sleep', ends by itself first; and code that catches `BaseException' may go on.
%%
%% The errors: `idle' when no Python code runs, or when what ran has ended by itself (whatever runs next is never hit);
%% `busy' when another interrupt of this context is under way; those of a context that is not there.
-spec interrupt(context()) ->
    ok
    | {error,
        idle
        | busy
        | stopped
        | {no_context, term()}
        | {remote_context, node(), binary()}
        | {context_down, term()}
        | {resources, binary()}}.
interrupt(Context) ->
    case py_context_lookup:resolve(Context) of
        {ok, Pid, Ctx} ->
            case py_request:run_anyway(Pid, fun(Ref) -> py_nif:context_interrupt(Ctx, Ref) end) of
                {ok, _None} -> ok;
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% @doc The figures of a context. They are read without asking its thread, so that a busy context answers at once.
-spec stats(context()) -> stats()
    | {error, {no_context, term()} | {remote_context, node(), binary()} | {would_deadlock, binary()} | stopped}.
stats(Context) ->
    case py_context_lookup:resolve(Context) of
        {ok, _Pid, Ctx} -> py_nif:stats(Ctx);
        {error, _} = Error -> Error
    end.

%% @doc As {@link handoff/3}, to context 1, which is started if it does not run.
-spec handoff(py_reactor_socket:source(), py_info:info()) -> ok | {error, term()}.
handoff(Source, Info) ->
    case py_context_sup:ensure(1) of
        {ok, Pid} -> handoff(Pid, Source, Info);
        {error, _} = Error -> discarded(Source, Error)
    end.

%% @doc Hands a connection over to a context. `ok' means that it was checked and counted and is queued for the thread.
%%
%% Given a descriptor from {@link py:dup_fd/1}, the reactor takes that very descriptor, and closes it whatever the answer
%% is: it is never yours again. Any other number is duplicated;
%% if a `gen_tcp' or `gen_udp' port linked to the caller owns it, that port is closed. A socket of `gen_tcp', `gen_udp' or
%% `socket' may be given itself, and is closed as well: there is nothing left for the caller to close. Sockets must be
%% passive, and read in `raw' mode if at all: bytes that a packet mode has read ahead stay behind.
%%
%% `Info' becomes `client_info' in Python: `addr' (a tuple, a string or a binary), `port', `type', and whatever you add.
%%
%% The errors: `{bad_fd, Fd}', `{already_handed_off, Fd}', `{unsupported_descriptor, Kind}', `{active_socket, Hint}',
%% `{output_pending, Bytes, Hint}', `{bad_socket, Socket, Why}', `{bad_info, Why}', `{no_context, Context}', `stopped',
%% `draining',
%% `busy' (the queue to the thread is full), `{max_connections, Max}'. After the last the connection is closed, so that
%% its peer knows. After any other the caller keeps what it gave, unless that is a duplicate from `py:dup_fd/1', or a
%% socket of the module `socket' (an `inet_backend' of a `gen_tcp' socket) and the context is there: these are gone.
%%
%% A socket that another process closes meanwhile is `{bad_socket, Socket, closed}', one that it hands over
%% `{already_handed_off, FdOrPort}': of those who hand over the same, one is answered `ok'. A mere number has nobody to ask:
%% see to it that it is not closed before the answer.
-spec handoff(context(), py_reactor_socket:source(), py_info:info()) -> ok | {error, term()}.
handoff(Context, Source, Info) ->
    case py_context_lookup:resolve(Context) of
        {ok, _Pid, Ctx} -> py_reactor_socket:hand_over(Ctx, Source, Info);
        {error, _} = Error -> discarded(Source, Error)
    end.

-spec discarded(py_reactor_socket:source(), Error) -> Error when Error :: {error, term()}.
discarded(Source, Error) ->
    ok = py_reactor_socket:discard(Source),
    Error.

%% @doc The connections of a context, of any node, in no order. Its thread is asked and does nothing else meanwhile: this
%% is for people and for starting up, not for every message.
-spec connections(context()) -> [connection_info()] | {error, term()}.
connections(Context) ->
    case request(Context, list) of
        {ok, Connections} -> Connections;
        {error, _} = Error -> Error
    end.

%% @doc Writes to a connection, as if its protocol had called `write' between two callbacks: `Data' is sent after what was
%% written before. All of it is taken, or nothing: `{error, {no_room, Bytes}}' says how much there is room for now,
%% which is never more than `write_high_bytes'. What the protocol itself holds back in `write_buffer' is not sent before.
%%
%% The other errors: `{no_connection, Fd}' when there is none or it is being closed, `{no_destination, Fd}' on a datagram
%% socket without a peer, `{bad_connection, Connection}', `{bad_data, Data}', `{no_context, Context}', `stopped',
%% `busy', `{context_down, Reason}', `{would_deadlock, Why}' (see {@link py:register_function/2}), `{unreachable, Node, Why}'.
-spec send(context(), connection(), iodata()) -> ok | {error, term()}.
send(Context, Connection, Data) ->
    try iolist_to_binary(Data) of
        Binary -> ask(Context, Connection, {send, Binary})
    catch
        error:badarg -> {error, {bad_data, Data}}
    end.

%% @doc Closes a connection as the action `"close"' does: what was written is delivered first. The errors are those of
%% {@link send/3}.
-spec close(context(), connection()) -> ok | {error, term()}.
close(Context, Connection) ->
    ask(Context, Connection, close).

%% @doc Passes a term to the protocol's `message_received', in whatever mode the connection is. `ok' means that this was
%% called. The errors are those of {@link send/3}, and `{unsupported_term, Why}'. Messages from one process
%% arrive in order, with what it {@link send/3. sends}.
-spec notify(context(), connection(), term()) -> ok | {error, term()}.
notify(Context, Connection, Term) ->
    ask(Context, Connection, {notify, Term}).

%% @doc Watches a connection for the caller: once its protocol has been told that it is gone, the caller gets
%% `{py_connection_down, Monitor, Fd, Reason}', with what this function returns as `Monitor', exactly once, whatever
%% happens. Reasons: `closed' (by its protocol, or by {@link close/2}), `peer_closed', `reset', `idle', `stalled',
%% `exception', `stopped' (the context was drained or stopped), `killed' (the context died), and at once `noconnection' if
%% there is no such connection or no such context, `too_many_monitors' if 1024 watch it already, `unreachable' if the context's node cannot be reached any more.
-spec monitor_connection(context(), connection()) -> py_connection_monitor:monitor().
monitor_connection(Context, {Fd, Serial, Bits} = Connection) when
    ?IS_NUMBER(Fd), ?IS_NUMBER(Serial), ?IS_NUMBER(Bits)
->
    py_connection_monitor:start(Context, Connection, Fd);
monitor_connection(Context, Fd) when ?IS_NUMBER(Fd) ->
    py_connection_monitor:start(Context, Fd, Fd).

%% @doc Ends a watch. Its message does not come after this; one that has come is taken out of the caller's mailbox.
-spec demonitor_connection(py_connection_monitor:monitor()) -> ok.
demonitor_connection(Monitor) ->
    py_connection_monitor:stop(Monitor).

-spec ask(context(), connection() | term(), close | {send, binary()} | {notify, term()}) -> ok | {error, term()}.
ask(Context, {Fd, Serial, Bits} = Connection, Request) when ?IS_NUMBER(Fd), ?IS_NUMBER(Serial), ?IS_NUMBER(Bits) ->
    done(request(Context, {Connection, Request}));
ask(Context, Fd, Request) when ?IS_NUMBER(Fd) ->
    done(request(Context, {Fd, Request}));
ask(_Context, Other, _Request) ->
    {error, {bad_connection, Other}}.

-spec done({ok, none} | {error, term()}) -> ok | {error, term()}.
done({ok, none}) -> ok;
done({error, _} = Error) -> Error.

%% @private
%% Asks the thread of a context, which may be on another node that runs this application.
-spec request(context() | term(), list | {connection(), close | {send, binary()} | {notify, term()}}) ->
    {ok, term()} | {error, term()}.
request(Context, What) when is_pid(Context), node(Context) =/= node() ->
    try
        erpc:call(node(Context), ?MODULE, request, [Context, What])
    catch
        error:{erpc, Why} -> {error, {unreachable, node(Context), Why}}
    end;
request(Context, What) ->
    case py_context_lookup:resolve(Context) of
        {ok, Pid, Ctx} -> py_request:run(Pid, fun(Ref) -> native(Ctx, Ref, What) end);
        {error, _} = Error -> Error
    end.

-spec native(py_nif:ctx(), reference(), list | {connection(), close | {send, binary()} | {notify, term()}}) ->
    ok | {error, term()}.
native(Ctx, Ref, list) -> py_nif:connection_list(Ctx, Ref, false);
native(Ctx, Ref, {Connection, Request}) -> py_nif:connection_ask(Ctx, Ref, Connection, Request).
