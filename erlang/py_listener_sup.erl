%% @doc The listeners of the application, each a child under its own name.
%% @private
-module(py_listener_sup).
-behaviour(supervisor).

-export([start_link/0, start_listener/2, stop_listener/1]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec start_listener(term(), py_reactor_listener:complete()) -> {ok, pid()} | {error, term()}.
start_listener(Name, Options) ->
    case supervisor:start_child(?MODULE, child({Name, Options})) of
        {ok, Pid} when is_pid(Pid) ->
            {ok, #{port := Port}} = py_reactor_table:listener(Name),
            ok = py_reactor_table:put_spec({listener, Name}, Options#{port := Port}),
            {ok, Pid};
        {error, {already_started, Pid}} when is_pid(Pid) ->
            {error, {already_started, Pid}};
        {error, {already_started, _Restarting}} ->
            {error, {restarting, Name}};
        {error, {{shutdown, Reason}, _Child}} ->
            {error, Reason};
        {error, {Reason, _Child}} ->
            {error, Reason}
    end.

-spec stop_listener(term()) -> ok | {error, {no_listener, term()}}.
stop_listener(Name) ->
    case supervisor:terminate_child(?MODULE, Name) of
        ok ->
            _ = supervisor:delete_child(?MODULE, Name),
            py_reactor_table:delete_spec({listener, Name});
        {error, not_found} ->
            {error, {no_listener, Name}}
    end.

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Flags = #{strategy => one_for_one, intensity => 10, period => 60},
    {ok, {Flags, [child(Spec) || Spec <- py_reactor_table:specs(listener)]}}.

-spec child({term(), py_reactor_listener:complete()}) -> supervisor:child_spec().
child({Name, Options}) ->
    #{id => Name, start => {py_reactor_listener, start_link, [Name, Options]}}.
