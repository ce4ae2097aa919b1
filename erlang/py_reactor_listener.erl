%% @doc A listening socket: accepts in batches when `enif_select' says so, and gives connections to contexts in turn.
%%
%% Accepting, and the hand-over of what was accepted, are one native call for a whole batch. The contexts are looked up
%% for every batch, so that one that was started again is found.
%% @private
-module(py_reactor_listener).
-behaviour(gen_server).

-export([validate/1, start_link/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export_type([complete/0]).

-type complete() :: #{
    port := inet:port_number(),
    ip := inet:ip_address(),
    contexts := [py_reactor_context:context(), ...],
    backlog := pos_integer()
}.

-record(state, {
    name :: term(),
    listener :: py_nif:listener() | lost,
    contexts :: [py_options:id()],
    trouble = none :: none | term()
}).

%% As many as one call accepts, so that the process hears its other messages in between.
-define(BATCH_MAX, 64).
%% How long a listener that cannot accept, or has nowhere to put what it accepts, leaves it to the backlog.
-define(PAUSE_MS, 100).
%% The old socket may close a moment later than the new one opens.
-define(REOPEN_ATTEMPTS_MAX, 20).

%% Completes and checks the options of a listener.
-spec validate(term()) -> {ok, complete()} | {error, py_options:error()}.
validate(Options) when is_map(Options) ->
    Defaults = #{port => 0, ip => {127, 0, 0, 1}, contexts => [1], backlog => 1024},
    All = maps:merge(Defaults, Options),
    case [{Key, Value, Why} || {Key, Value} <- maps:to_list(All), Why <- wrong(Key, Value)] of
        [] -> {ok, All};
        [{Key, Value, Why} | _] -> {error, {bad_option, Key, Value, Why}}
    end;
validate(Options) ->
    {error, {bad_option, options, Options, <<"options are a map">>}}.

-spec wrong(term(), term()) -> [binary()].
wrong(port, Port) when is_integer(Port), Port >= 0, Port =< 65535 ->
    [];
wrong(port, _Port) ->
    [<<"must be an integer from 0 to 65535">>];
wrong(ip, Ip) ->
    [<<"must be an address tuple, such as {127, 0, 0, 1}">> || not inet:is_ip_address(Ip)];
wrong(contexts, [_ | _] = Contexts) ->
    case lists:all(fun(C) -> is_pid(C) orelse (is_integer(C) andalso C > 0) end, Contexts) of
        true -> [];
        false -> [<<"a context is a pid or an integer from 1">>]
    end;
wrong(contexts, _Contexts) ->
    [<<"must be a list of contexts, and not an empty one">>];
wrong(backlog, Backlog) when is_integer(Backlog), Backlog >= 1, Backlog =< 65535 ->
    [];
wrong(backlog, _Backlog) ->
    [<<"must be an integer from 1 to 65535">>];
wrong(_Key, _Value) ->
    [<<"unknown option; known are backlog, contexts, ip, port">>].

-spec start_link(term(), complete()) -> {ok, pid()} | ignore | {error, term()}.
start_link(Name, Options) ->
    gen_server:start_link(?MODULE, {Name, Options}, []).

-spec init({term(), complete()}) -> {ok, #state{}} | {stop, {shutdown, {listen, atom(), map()}}}.
init({Name, #{port := Wanted, ip := Ip, contexts := Contexts} = Options}) ->
    process_flag(trap_exit, true),
    case open(py_reactor_table:spec({listener, Name}), Options) of
        {ok, Listener, Port} ->
            ok = py_reactor_table:put_listener(Name, self(), #{port => Port, ip => Ip, contexts => Contexts}),
            ok = py_nif:listener_arm(Listener),
            {ok, #state{name = Name, listener = Listener, contexts = Contexts}};
        {error, Posix} ->
            %% Not a crash worth a report: whoever asked is told.
            {stop, {shutdown, {listen, Posix, #{ip => Ip, port => Wanted}}}}
    end.

%% A listener that starts again is to be found where its clients expect it, whatever free port it got at first.
-spec open({ok, complete()} | error, complete()) -> {ok, py_nif:listener(), inet:port_number()} | {error, atom()}.
open({ok, #{port := Port, ip := Ip, backlog := Backlog}}, _Wanted) ->
    reopen(?REOPEN_ATTEMPTS_MAX, Ip, Port, Backlog);
open(error, #{port := Port, ip := Ip, backlog := Backlog}) ->
    py_nif:listen(Ip, Port, Backlog).

-spec reopen(non_neg_integer(), inet:ip_address(), inet:port_number(), pos_integer()) ->
    {ok, py_nif:listener(), inet:port_number()} | {error, atom()}.
reopen(AttemptsLeft, Ip, Port, Backlog) ->
    case py_nif:listen(Ip, Port, Backlog) of
        {error, eaddrinuse} when AttemptsLeft > 0 ->
            ok = timer:sleep(?PAUSE_MS),
            reopen(AttemptsLeft - 1, Ip, Port, Backlog);
        Result ->
            Result
    end.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, {error, term()}, #state{}}.
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Unknown, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, native_library_reloaded, #state{}}.
handle_info({select, Listener, _, ready_input}, #state{listener = Listener} = State) ->
    {noreply, accept(State)};
handle_info({py_nif, loaded}, #state{listener = Listener} = State) ->
    case py_nif:is_known(Listener) of
        true -> {noreply, State};
        false -> {stop, native_library_reloaded, State#state{listener = lost}}
    end;
handle_info(accept, State) ->
    {noreply, accept(State)};
handle_info(_Unknown, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{name = Name, listener = lost}) ->
    %% The socket ends with this process.
    py_reactor_table:delete_listener(Name, self());
terminate(_Reason, #state{name = Name, listener = Listener}) ->
    ok = py_nif:listener_close(Listener),
    py_reactor_table:delete_listener(Name, self()).

-spec accept(#state{}) -> #state{}.
accept(#state{listener = Listener, contexts = Contexts} = State) ->
    case [Ctx || Id <- Contexts, {ok, Ctx} <- [running(Id)]] of
        [] ->
            pause(no_context_runs, State);
        Running ->
            case py_nif:listener_accept(Listener, Running, ?BATCH_MAX) of
                more ->
                    self() ! accept,
                    State#state{trouble = none};
                armed ->
                    State#state{trouble = none};
                {error, Why} ->
                    pause(Why, State)
            end
    end.

%% Never waits for a context that still starts: those that run are enough.
-spec running(py_options:id()) -> {ok, py_nif:ctx()} | starting | error.
running(Id) ->
    case py_reactor_table:pid(Id) of
        {ok, Pid} -> py_reactor_table:ctx(Pid);
        error -> error
    end.

%% One line for each kind of trouble, however long it lasts.
-spec pause(term(), #state{}) -> #state{}.
pause(Trouble, #state{trouble = Trouble} = State) ->
    again_later(State);
pause(Trouble, #state{name = Name, contexts = Contexts} = State) ->
    logger:log(
        level(Trouble),
        "listener ~tp accepts nothing for now: ~tp; trying again every ~b ms",
        [Name, Trouble, ?PAUSE_MS],
        #{py_listener => Name, py_contexts => Contexts}
    ),
    again_later(State#state{trouble = Trouble}).

%% Somebody drains its contexts: on purpose.
-spec level(term()) -> logger:level().
level(draining) -> notice;
level(_Trouble) -> error.

-spec again_later(#state{}) -> #state{}.
again_later(State) ->
    _ = erlang:send_after(?PAUSE_MS, self(), accept),
    State.
