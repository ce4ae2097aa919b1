%% @doc Listeners, which accept connections and give them to contexts in turn; and contexts that the application
%% supervises under options of their own.
-module(py_reactor).

-export([start_listener/2, stop_listener/1, listeners/0]).
-export([start_context/3, dump/1]).
-export_type([listener_options/0, listener_info/0]).

-type listener_options() :: #{
    port => inet:port_number(),
    ip => inet:ip_address(),
    contexts => [py_reactor_context:context(), ...],
    backlog => pos_integer(),
    reuseport => boolean()
}.
%% <dl>
%% <dt>`port' (0)</dt><dd>0: any free one, see {@link listeners/0}</dd>
%% <dt>`ip' (`{127, 0, 0, 1}')</dt><dd>`{0, 0, 0, 0}' or `{0, 0, 0, 0, 0, 0, 0, 0}' serve everybody</dd>
%% <dt>`contexts' (`[1]')</dt><dd>numbers or pids; numbers of contexts that do not run are started</dd>
%% <dt>`backlog' (1024)</dt><dd>connections that the kernel keeps until they are accepted</dd>
%% <dt>`reuseport' (`false')</dt><dd>a socket for each context (SO_REUSEPORT); what that costs stands in the reference</dd>
%% </dl>
-type listener_info() :: #{
    port := inet:port_number(), ip := inet:ip_address(), contexts := [py_reactor_context:context()]
}.

%% @doc Listens on a TCP port. The name is any term that is not in use. The listener is supervised: it comes back after a
%% crash, on the same port, and gives connections to a context that was started again as to the one before.
%%
%% The errors: `{bad_option, Key, Value, Why}', `{already_started, Pid}', `{listen, Posix, #{ip, port}}' (with `eaddrinuse'
%% for a port in use, `eacces' for one that is not ours to use), `{resources, Why}', and those of a context that is started on demand.
-spec start_listener(Name :: term(), listener_options()) -> {ok, pid()} | {error, term()}.
start_listener(Name, Options) ->
    case py_reactor_listener:validate(Options) of
        {ok, Complete} ->
            case py_reactor_on_demand:ensure_started() of
                ok -> start_checked(Name, Complete);
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

-spec start_checked(term(), py_reactor_listener:complete()) -> {ok, pid()} | {error, term()}.
start_checked(Name, #{contexts := Contexts} = Options) ->
    case numbers(Contexts, []) of
        {ok, Numbers} -> py_listener_sup:start_listener(Name, Options#{contexts := Numbers});
        {error, _} = Error -> Error
    end.

%% A number outlives the process that has it: so a pid is replaced by its number.
-spec numbers([py_reactor_context:context()], [py_options:id()]) -> {ok, [py_options:id()]} | {error, term()}.
numbers([], Numbers) ->
    {ok, lists:reverse(Numbers)};
numbers([Pid | Rest], Numbers) when is_pid(Pid) ->
    case py_reactor_table:id(Pid) of
        {ok, Id} -> numbers(Rest, [Id | Numbers]);
        error -> {error, py_context_lookup:absent(Pid)}
    end;
numbers([Id | Rest], Numbers) ->
    case py_context_sup:ensure(Id) of
        {ok, _Pid} -> numbers(Rest, [Id | Numbers]);
        {error, _} = Error -> Error
    end.

%% @doc Stops listening. Connections that were accepted are served on.
-spec stop_listener(Name :: term()) -> ok | {error, {no_listener, term()}}.
stop_listener(Name) ->
    case py_reactor_table:exists() of
        true -> py_listener_sup:stop_listener(Name);
        false -> {error, {no_listener, Name}}
    end.

%% @doc The listeners by name, each with its actual port.
-spec listeners() -> #{Name :: term() => listener_info()}.
listeners() ->
    py_reactor_table:listeners().

%% @doc Starts a context as `py_reactor_context:start_link/3' does, with the same errors, under the application's own
%% supervisor: it comes back after a crash, with its options, `setup_code' included. Where it cannot, that is tried again,
%% with pauses of up to 10 seconds, and `{restarting, Id}' is the answer meanwhile; other contexts do not notice.
%% `py_reactor_context:stop' ends it.
-spec start_context(py_options:id(), py_options:mode(), py_options:options()) -> {ok, pid()} | {error, term()}.
start_context(Id, Mode, Options) ->
    py_context_sup:start_context(Id, Mode, Options).

%% @doc What is known of a context, to look for a fault or to send along with a report: `io:format("~tp~n", [Dump])' prints it.
%%
%% `stats', `versions', `options', `mode', how many commands are `queued' and whether Python code `runs' are known at once.
%% The `stacks' of Python are looked at by another thread, which needs Python's lock; `connections' (at most 256, the others
%% are counted) are told by the context's own thread. Each has half a second, and is `{unknown, Why}' after that: so a
%% context that never returns answers all but the second, and one that keeps Python's lock for itself answers the rest.
%%
%% What clients or secrets might stand in is left out: `client_info', bytes of connections, the text of `setup_code' and the
%% values of variables of the environment. Stacks show lines of your source.
-spec dump(py_reactor_context:context()) ->
    py_dump:dump() | {error, {no_context, term()} | {would_deadlock, binary()} | stopped | {unreachable, node(), term()}}.
dump(Context) when is_pid(Context), node(Context) =/= node() ->
    try
        erpc:call(node(Context), ?MODULE, dump, [Context])
    catch
        error:{erpc, Why} -> {error, {unreachable, node(Context), Why}}
    end;
dump(Context) ->
    case py:version() of
        #{} = Versions -> py_dump:dump(Context, Versions);
        {error, _} = Error -> Error
    end.
