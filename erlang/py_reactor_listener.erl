%% @doc The process of a listener: owns its socket, has contexts accept from it, and closes it.
%%
%% Contexts accept on their own threads: whoever waits takes who comes. This process only hears when a context is there (again),
%% and when nobody accepts: then it waits for clients itself, to say so.
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
    backlog := pos_integer(),
    reuseport := boolean()
}.

-record(state, {
    name :: term(),
    options :: complete(),
    port :: inet:port_number(),
    %% Those that are accepted from, by the reference that news of them have: one for all contexts, or one for each.
    sockets = #{} :: #{reference() => {all | py_reactor_context:context(), py_nif:listener()}},
    trouble = none :: none | term()
}).

%% How long a context that could not accept leaves it to the backlog: ACCEPT_RETRY_MS of src/base/config.rs.
-define(RETRY_MS, 100).
%% The old socket may close a moment later than the new one opens.
-define(REOPEN_ATTEMPTS_MAX, 20).

%% Completes and checks the options of a listener.
-spec validate(term()) -> {ok, complete()} | {error, py_options:error()}.
validate(Options) when is_map(Options) ->
    Defaults = #{port => 0, ip => {127, 0, 0, 1}, contexts => [1], backlog => 1024, reuseport => false},
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
wrong(reuseport, Reuseport) ->
    [<<"must be true or false">> || not is_boolean(Reuseport)];
wrong(_Key, _Value) ->
    [<<"unknown option; known are backlog, contexts, ip, port, reuseport">>].

-spec start_link(term(), complete()) -> {ok, pid()} | ignore | {error, term()}.
start_link(Name, Options) ->
    gen_server:start_link(?MODULE, {Name, Options}, []).

-spec init({term(), complete()}) -> {ok, #state{}} | {stop, {shutdown, {listen, atom(), map()} | {resources, binary()}}}.
init({Name, #{port := Wanted, ip := Ip, contexts := Contexts} = Options}) ->
    process_flag(trap_exit, true),
    Ref = make_ref(),
    case open(py_reactor_table:spec({listener, Name}), Ref, Options) of
        {ok, Listener, Port} ->
            %% Before the contexts are looked up: one that is ready later tells whom it finds.
            ok = py_reactor_table:put_listener(Name, self(), #{port => Port, ip => Ip, contexts => Contexts}),
            First = first(Options),
            State = #state{name = Name, options = Options, port = Port, sockets = #{Ref => {First, Listener}}},
            {ok, wait_for_clients(lists:foldl(fun share/2, State, Contexts))};
        %% Not a crash worth a report: whoever asked is told.
        {error, {resources, _} = Reason} ->
            {stop, {shutdown, Reason}};
        {error, Posix} ->
            {stop, {shutdown, {listen, Posix, #{ip => Ip, port => Wanted}}}}
    end.

%% Whose the first socket is.
-spec first(complete()) -> all | py_reactor_context:context().
first(#{reuseport := false}) -> all;
first(#{contexts := [Id | _]}) -> Id.

%% A listener that starts again is to be found where its clients expect it, whatever free port it got at first.
-spec open({ok, complete()} | error, reference(), complete()) ->
    {ok, py_nif:listener(), inet:port_number()} | {error, atom() | {resources, binary()}}.
open({ok, #{port := Port} = Options}, Ref, _Wanted) ->
    reopen(?REOPEN_ATTEMPTS_MAX, Ref, Port, Options);
open(error, Ref, #{port := Port} = Options) ->
    listen(Ref, Port, Options).

-spec listen(reference(), inet:port_number(), complete()) ->
    {ok, py_nif:listener(), inet:port_number()} | {error, atom() | {resources, binary()}}.
listen(Ref, Port, #{ip := Ip, backlog := Backlog, reuseport := Reuseport}) ->
    py_nif:listen(Ref, Ip, Port, Backlog, Reuseport).

-spec reopen(non_neg_integer(), reference(), inet:port_number(), complete()) ->
    {ok, py_nif:listener(), inet:port_number()} | {error, atom() | {resources, binary()}}.
reopen(AttemptsLeft, Ref, Port, Options) ->
    case listen(Ref, Port, Options) of
        {error, eaddrinuse} when AttemptsLeft > 0 ->
            ok = timer:sleep(?RETRY_MS),
            reopen(AttemptsLeft - 1, Ref, Port, Options);
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
handle_info({py_context_ready, Id}, #state{options = #{contexts := Contexts}} = State) ->
    case lists:member(Id, Contexts) of
        true -> {noreply, wait_for_clients(share(Id, State))};
        false -> {noreply, State}
    end;
handle_info({Ref, nobody_accepts}, #state{sockets = Sockets} = State) when is_map_key(Ref, Sockets) ->
    {noreply, wait_for_clients(State)};
handle_info({Ref, {trouble, Posix}}, #state{sockets = Sockets} = State) when is_map_key(Ref, Sockets) ->
    %% Told once, and once more when it comes again.
    {noreply, trouble(Posix, State#state{trouble = none})};
handle_info({select, _, _, ready_input}, State) ->
    {noreply, client_waits(State)};
handle_info({py_nif, loaded}, #state{sockets = Sockets} = State) ->
    case lists:all(fun({_Whose, Listener}) -> py_nif:is_known(Listener) end, maps:values(Sockets)) of
        true -> {noreply, State};
        %% Those sockets end with this process.
        false -> {stop, native_library_reloaded, State#state{sockets = #{}}}
    end;
handle_info(_Unknown, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{name = Name, sockets = Sockets}) ->
    [ok = py_nif:listener_close(Listener) || {_Whose, Listener} <- maps:values(Sockets)],
    py_reactor_table:delete_listener(Name, self()).

%% Has a context accept, if it runs. One that still starts tells when it is ready.
-spec share(py_reactor_context:context(), #state{}) -> #state{}.
share(Id, State) ->
    case running(Id) of
        {ok, Ctx} ->
            {Listener, NewState} = socket_for(Id, State),
            try py_nif:listener_share(Listener, Ctx) of
                ok -> NewState#state{trouble = none};
                %% It ends; the next one tells.
                {error, stopped} -> NewState
            catch
                %% One of them was made by a library that was purged at this moment: it ends, too.
                error:badarg -> NewState
            end;
        _ ->
            State
    end.

%% A context that was made by a library that was purged is still there for a moment.
-spec running(py_reactor_context:context()) -> {ok, py_nif:ctx()} | starting | error.
running(Id) ->
    case py_reactor_table:pid(Id) of
        {ok, Pid} ->
            case py_reactor_table:ctx(Pid) of
                {ok, Ctx} ->
                    case py_nif:is_known(Ctx) of
                        true -> {ok, Ctx};
                        false -> error
                    end;
                NotReady ->
                    NotReady
            end;
        error ->
            error
    end.

%% The socket that a context accepts from.
-spec socket_for(py_reactor_context:context(), #state{}) -> {py_nif:listener(), #state{}}.
socket_for(Id, #state{options = Options, port = Port, sockets = Sockets} = State) ->
    case [Listener || {Whose, Listener} <- maps:values(Sockets), Whose =:= all orelse Whose =:= Id] of
        [Listener | _] ->
            {Listener, State};
        [] ->
            Ref = make_ref(),
            case listen(Ref, Port, Options) of
                {ok, Listener, Port} ->
                    {Listener, State#state{sockets = Sockets#{Ref => {Id, Listener}}}};
                {error, Posix} ->
                    %% With another one it accepts all the same.
                    [{_, Listener} | _] = maps:values(Sockets),
                    {Listener, trouble(Posix, State)}
            end
    end.

%% Of sockets that nobody accepts from one may stay, where there is no other: this process waits for its clients, to say that
%% nobody serves them.
-spec wait_for_clients(#state{}) -> #state{}.
wait_for_clients(#state{sockets = Sockets} = State) ->
    case maps:filter(fun(_Ref, {_Whose, Listener}) -> py_nif:listener_is_wanted(Listener) end, Sockets) of
        None when map_size(None) =:= 0 ->
            [{Ref, {_, Listener} = Kept} | Others] = maps:to_list(Sockets),
            ok = close(Others),
            ok = py_nif:listener_arm(Listener),
            State#state{sockets = #{Ref => Kept}};
        Wanted ->
            ok = close(maps:to_list(maps:without(maps:keys(Wanted), Sockets))),
            State#state{sockets = Wanted}
    end.

-spec close([{reference(), {all | py_reactor_context:context(), py_nif:listener()}}]) -> ok.
close(Sockets) ->
    lists:foreach(fun({_Ref, {_Whose, Listener}}) -> py_nif:listener_close(Listener) end, Sockets).

%% A client is there, whom nobody may serve.
-spec client_waits(#state{}) -> #state{}.
client_waits(#state{sockets = Sockets, options = #{contexts := Contexts}} = State) ->
    case lists:any(fun({_Whose, Listener}) -> py_nif:listener_is_wanted(Listener) end, maps:values(Sockets)) of
        true ->
            State;
        false ->
            case [Id || Id <- Contexts, {ok, _} <- [running(Id)]] of
                [] -> trouble(no_context_runs, State);
                _ -> trouble(draining, State)
            end
    end.

%% One line for each kind of trouble, however long it lasts.
-spec trouble(term(), #state{}) -> #state{}.
trouble(Trouble, #state{trouble = Trouble} = State) ->
    State;
trouble(Trouble, #state{name = Name, options = #{contexts := Contexts}} = State) ->
    logger:log(
        level(Trouble),
        "listener ~tp accepts nothing for now: ~tp; ~ts",
        [Name, Trouble, what_follows(Trouble)],
        #{py_listener => Name, py_contexts => Contexts}
    ),
    State#state{trouble = Trouble}.

%% Somebody drains its contexts: on purpose.
-spec level(term()) -> logger:level().
level(draining) -> notice;
level(_Trouble) -> error.

-spec what_follows(term()) -> string().
what_follows(Trouble) when Trouble =:= draining; Trouble =:= no_context_runs ->
    "clients wait until one of its contexts runs and takes connections";
what_follows(_Posix) ->
    io_lib:format("trying again every ~b ms", [?RETRY_MS]).
