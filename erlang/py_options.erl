%% @doc The options of a context: their types, their defaults, and what is wrong with them.
%%
%% An option is looked for in the map that the caller gives, then in the environment of the application `py_reactor',
%% then among the defaults of {@link defaults/0}. The operating system's variable `PY_REACTOR_BACKEND' decides when the
%% backend is `auto' after that.
-module(py_options).

-export([validate/1, validate/3, defaults/0, native/1, allow_subprocess/0]).
-export_type([id/0, mode/0, options/0, complete/0, native/0, error/0]).

-type id() :: pos_integer().
%% The number of a context, unique in the node.
-type mode() :: worker | subinterp | owngil.
%% Where a context's Python runs. `worker': in the main interpreter of the process, whose GIL all such contexts share.
%% `subinterp': in an interpreter of its own, with its own GIL from Python 3.12 on. `owngil': the same, but an error where
%% there is no own GIL.
-type options() :: #{
    backend => auto | uring | epoll,
    cpu => any | 0..1023,
    setup_code => unicode:chardata(),
    python_path => [unicode:chardata()],
    venv => none | unicode:chardata(),
    env => #{unicode:chardata() => unicode:chardata() | false} | [{unicode:chardata(), unicode:chardata() | false}],
    max_connections => pos_integer(),
    write_high_bytes => pos_integer(),
    write_low_bytes => non_neg_integer(),
    linger_ms => non_neg_integer(),
    linger_bytes => non_neg_integer(),
    idle_timeout_ms => pos_integer() | infinity,
    write_stall_timeout_ms => pos_integer() | infinity,
    slow_callback_ms => pos_integer() | infinity,
    buffers => pos_integer(),
    buffer_bytes => pos_integer(),
    drain_ms => non_neg_integer(),
    start_timeout_ms => pos_integer() | infinity
}.
%% <dl>
%% <dt>`backend' (`auto')</dt><dd>how the kernel is asked: `uring', `epoll', or the best of them</dd>
%% <dt>`cpu' (`any')</dt><dd>the number of the CPU that the context's thread stays on</dd>
%% <dt>`setup_code' (empty)</dt><dd>Python that runs in the context's globals before it serves anything</dd>
%% <dt>`python_path' (empty)</dt><dd>directories put on `sys.path', after that of the package `erlang'</dd>
%% <dt>`venv' (`none')</dt><dd>a virtual environment whose packages can be imported; in mode `worker' the first one holds
%%     for all</dd>
%% <dt>`env' (empty)</dt><dd>environment variables, from names to values or to `false', which takes one away: a map, or a list
%%     such as `os:env/0' answers; in mode `worker' they are the process's, otherwise only `os.environ' has them</dd>
%% <dt>`max_connections' (65536)</dt><dd>further ones are refused and closed</dd>
%% <dt>`write_high_bytes', `write_low_bytes' (262144, 65536)</dt><dd>unsent bytes of one connection: no more than the
%%     first are accepted; `write_ready' is called once they are down to the second</dd>
%% <dt>`linger_ms', `linger_bytes' (2000, 1048576)</dt><dd>how long, and how much, is still read and thrown away after a
%%     connection was closed by us, so that the last response is not lost to a reset</dd>
%% <dt>`idle_timeout_ms' (`infinity')</dt><dd>a connection on which nothing moves for so long is closed properly</dd>
%% <dt>`write_stall_timeout_ms' (`infinity')</dt><dd>a connection whose peer takes no output for so long is cut off</dd>
%% <dt>`slow_callback_ms' (1000)</dt><dd>a callback that takes so long is logged; `infinity' never</dd>
%% <dt>`buffers', `buffer_bytes' (1024, 16384)</dt><dd>the memory that the kernel receives into: a power of two from 16
%%     to 32768 pieces of 1024 to 1048576 bytes</dd>
%% <dt>`drain_ms' (5000)</dt><dd>how long connections may take to end when the context stops</dd>
%% <dt>`start_timeout_ms' (60000)</dt><dd>how long the interpreter and `setup_code' may take to start</dd>
%% </dl>
-type complete() :: #{
    backend := auto | uring | epoll,
    cpu := any | 0..1023,
    setup_code := binary(),
    python_path := [binary()],
    venv := none | binary(),
    env := [{binary(), binary() | false}],
    max_connections := pos_integer(),
    write_high_bytes := pos_integer(),
    write_low_bytes := non_neg_integer(),
    linger_ms := non_neg_integer(),
    linger_bytes := non_neg_integer(),
    idle_timeout_ms := pos_integer() | infinity,
    write_stall_timeout_ms := pos_integer() | infinity,
    slow_callback_ms := pos_integer() | infinity,
    buffers := pos_integer(),
    buffer_bytes := pos_integer(),
    drain_ms := non_neg_integer(),
    start_timeout_ms := pos_integer() | infinity
}.
%% What {@link validate/1} makes of `options()'.
-type native() :: map().
%% The part of `complete()' that the native half knows, with the package `erlang' on the path.
-type error() :: {bad_option, Key :: term(), Value :: term(), Why :: binary()}.

-define(IS_MODE(Mode), (Mode =:= worker orelse Mode =:= subinterp orelse Mode =:= owngil)).

-define(IS_TIMEOUT(Key),
    (Key =:= idle_timeout_ms orelse Key =:= write_stall_timeout_ms orelse Key =:= slow_callback_ms orelse
        Key =:= start_timeout_ms)
).

%% What Erlang keeps to itself.
-define(CONTROL_KEYS, [drain_ms, start_timeout_ms]).

%% @doc Completes and checks the options of a context. The first offending one is named in the error, with the reason.
-spec validate(options()) -> {ok, complete()} | {error, error()}.
validate(Options) when is_map(Options) ->
    Known = defaults(),
    Environment = environment(),
    case {unknown(Options, Known), unknown(Environment, Known)} of
        {[], []} -> check_all(maps:to_list(maps:merge(maps:merge(Known, Environment), Options)), #{});
        {[Key | _], _} -> bad(Key, map_get(Key, Options), ["unknown option" | known(Key, Known)]);
        {[], [Key | _]} -> bad(Key, map_get(Key, Environment), ["unknown in the application's environment" | known(Key, Known)])
    end;
validate(Options) ->
    bad(options, Options, "options are a map").

%% @doc As {@link validate/1}, with the number and the mode that the context is to have.
-spec validate(id() | term(), mode() | term(), options()) ->
    {ok, complete()} | {error, error() | {bad_id | unsupported_mode, term(), Why :: binary()}}.
validate(Id, Mode, Options) when is_integer(Id), Id > 0, ?IS_MODE(Mode) ->
    validate(Options);
validate(Id, Mode, _Options) when is_integer(Id), Id > 0 ->
    {error, {unsupported_mode, Mode, <<"a mode is worker, subinterp or owngil">>}};
validate(Id, _Mode, _Options) ->
    {error, {bad_id, Id, <<"the number of a context is an integer from 1">>}}.

%% @doc The value of every option that nobody sets.
-spec defaults() -> complete().
defaults() ->
    #{
        backend => auto,
        cpu => any,
        setup_code => <<>>,
        python_path => [],
        venv => none,
        env => [],
        max_connections => 65536,
        write_high_bytes => 262144,
        write_low_bytes => 65536,
        linger_ms => 2000,
        linger_bytes => 1048576,
        idle_timeout_ms => infinity,
        write_stall_timeout_ms => infinity,
        slow_callback_ms => 1000,
        buffers => 1024,
        buffer_bytes => 16384,
        drain_ms => 5000,
        start_timeout_ms => 60000
    }.

%% @private
-spec native(complete()) -> native().
native(#{python_path := Directories, env := Variables} = Options) ->
    Ours = unicode:characters_to_binary(filename:join(py_nif:priv_dir(), "python")),
    Set = [{Name, unset_is_nil(Value)} || {Name, Value} <- Variables],
    Native = maps:without(?CONTROL_KEYS, Options#{python_path := [Ours | Directories], env := Set}),
    maps:map(fun(_Key, Value) -> plain(Value) end, Native).

%% Never is 0, no directory the empty one, any CPU -1.
-spec plain(term()) -> term().
plain(infinity) -> 0;
plain(none) -> <<>>;
plain(any) -> -1;
plain(Value) -> Value.

-spec unset_is_nil(binary() | false) -> binary() | nil.
unset_is_nil(false) -> nil;
unset_is_nil(Value) -> Value.

%% @doc Whether Python code may start programs: `allow_subprocess' in the environment of the application, `false' unless it
%% is set. It holds for the whole process, so that no context has it for an option.
-spec allow_subprocess() -> {ok, boolean()} | {error, error()}.
allow_subprocess() ->
    case application:get_env(py_reactor, allow_subprocess, false) of
        Allowed when is_boolean(Allowed) -> {ok, Allowed};
        Other -> bad(allow_subprocess, Other, "must be true or false")
    end.

%% Without what is no option of contexts.
-spec environment() -> map().
environment() ->
    maps:without([allow_subprocess, included_applications], maps:from_list(application:get_all_env(py_reactor))).

-spec unknown(map(), complete()) -> [term()].
unknown(Options, Known) ->
    maps:keys(maps:without(maps:keys(Known), Options)).

%% The one that is meant first: the shell shows the beginning of a long text only.
-spec known(Unknown :: term(), complete()) -> iolist().
known(Unknown, Known) ->
    Names = [atom_to_list(Key) || Key <- maps:keys(Known)],
    Pairs = pairs(lists:flatten(io_lib:format("~tP", [Unknown, 20]))),
    Likeness = fun(Name) -> 2 * length(Pairs -- (Pairs -- pairs(Name))) / (length(Pairs) + length(pairs(Name))) end,
    {Best, Name} = lists:max([{Likeness(Name), Name} || Name <- Names]),
    [[[" (is ", Name, " meant?)"] || Best > 0.5], "; known are " | lists:join(", ", Names)].

-spec pairs(string()) -> [{char(), char()}].
pairs(Text) ->
    lists:zip(lists:droplast(Text), tl(Text)).

-spec check_all([{atom(), term()}], map()) -> {ok, complete()} | {error, error()}.
check_all([], Done) ->
    check_together(Done);
check_all([{Key, Value} | Rest], Done) ->
    case check(Key, Value) of
        {ok, Good} -> check_all(Rest, Done#{Key => Good});
        {error, Why} -> bad(Key, Value, Why)
    end.

-spec check_together(map()) -> {ok, complete()} | {error, error()}.
check_together(#{write_low_bytes := Low, write_high_bytes := High}) when Low > High ->
    bad(write_low_bytes, Low, io_lib:format("must not be above write_high_bytes, ~b", [High]));
check_together(#{backend := auto} = Options) ->
    case os:getenv("PY_REACTOR_BACKEND", "auto") of
        "auto" -> {ok, Options};
        "uring" -> {ok, Options#{backend := uring}};
        "epoll" -> {ok, Options#{backend := epoll}};
        Other -> bad(backend, Other, "the variable PY_REACTOR_BACKEND must be auto, uring or epoll")
    end;
check_together(Options) ->
    {ok, Options}.

-spec check(atom(), term()) -> {ok, term()} | {error, iodata()}.
check(backend, Value) ->
    one_of([auto, uring, epoll], Value);
check(cpu, any) ->
    {ok, any};
check(cpu, Value) ->
    integer(0, 1023, Value);
check(setup_code, Value) ->
    text(Value);
check(python_path, Value) ->
    directories(Value);
check(venv, none) ->
    {ok, none};
check(venv, Value) ->
    venv(existing(text(Value)));
check(env, Value) ->
    variables(Value);
check(max_connections, Value) ->
    integer(1, 1 bsl 24, Value);
check(write_high_bytes, Value) ->
    integer(1, 1 bsl 30, Value);
check(write_low_bytes, Value) ->
    integer(0, 1 bsl 30, Value);
check(linger_ms, Value) ->
    integer(0, 3600000, Value);
check(linger_bytes, Value) ->
    integer(0, 1 bsl 40, Value);
check(buffers, Value) ->
    power_of_two(integer(16, 32768, Value));
check(buffer_bytes, Value) ->
    integer(1024, 1048576, Value);
check(drain_ms, Value) ->
    integer(0, 3600000, Value);
check(Key, infinity) when ?IS_TIMEOUT(Key) ->
    {ok, infinity};
check(Key, Value) when ?IS_TIMEOUT(Key) ->
    integer(1, 86400000, Value).

-spec one_of([atom()], term()) -> {ok, atom()} | {error, iodata()}.
one_of(Allowed, Value) ->
    case lists:member(Value, Allowed) of
        true -> {ok, Value};
        false -> {error, ["must be one of ", lists:join(", ", [atom_to_list(A) || A <- Allowed])]}
    end.

-spec integer(integer(), integer(), term()) -> {ok, integer()} | {error, iodata()}.
integer(Min, Max, Value) when is_integer(Value), Value >= Min, Value =< Max ->
    {ok, Value};
integer(Min, Max, _Value) ->
    {error, io_lib:format("must be an integer from ~b to ~b", [Min, Max])}.

-spec power_of_two({ok, integer()} | {error, iodata()}) -> {ok, integer()} | {error, iodata()}.
power_of_two({ok, Value}) when Value band (Value - 1) =/= 0 ->
    {error, "must be a power of two"};
power_of_two(Checked) ->
    Checked.

-spec variables(term()) -> {ok, [{binary(), binary() | false}]} | {error, iodata()}.
variables(Value) when is_map(Value) ->
    variables(maps:to_list(Value));
variables(Value) when is_list(Value), length(Value) >= 0 ->
    Variables = [variable(Variable) || Variable <- Value],
    case [Why || {error, Why} <- Variables] of
        [] -> {ok, [Variable || {ok, Variable} <- Variables]};
        [Why | _] -> {error, Why}
    end;
variables(_Value) ->
    {error, "must be a map from names to values, or a list of pairs of them"}.

-spec variable(term()) -> {ok, {binary(), binary() | false}} | {error, iodata()}.
variable({Name, Value}) ->
    case {text(Name), value(Value)} of
        {{ok, <<>>}, _} ->
            {error, "the name of a variable must not be empty"};
        {{ok, Text}, {ok, Good}} ->
            case binary:match(Text, <<"=">>) of
                nomatch -> {ok, {Text, Good}};
                _ -> {error, ["the name of a variable must not contain =: ", Text]}
            end;
        {{error, Why}, _} ->
            {error, ["the name of a variable ", Why]};
        {{ok, Text}, {error, Why}} ->
            {error, ["the value of ", Text, " ", Why, ", or false"]}
    end;
variable(_Other) ->
    {error, "must be pairs of a name and a value"}.

-spec value(term()) -> {ok, binary() | false} | {error, iodata()}.
value(false) -> {ok, false};
value(Value) -> text(Value).

-spec directories(term()) -> {ok, [binary()]} | {error, iodata()}.
directories([Char | _]) when is_integer(Char) ->
    {error, "must be a list of directories, not one string"};
directories(Value) when is_list(Value) ->
    Texts = [existing(text(Directory)) || Directory <- Value],
    case [Why || {error, Why} <- Texts] of
        [] -> {ok, [Directory || {ok, Directory} <- Texts]};
        [Why | _] -> {error, ["each directory must be one: ", Why]}
    end;
directories(_Value) ->
    {error, "must be a list of directories"}.

%% A file may be an archive of modules.
-spec existing({ok, binary()} | {error, iodata()}) -> {ok, binary()} | {error, iodata()}.
existing({ok, Path}) ->
    case filelib:is_file(Path) of
        true -> {ok, Path};
        false -> {error, [Path, " does not exist"]}
    end;
existing({error, _} = Error) ->
    Error.

-spec venv({ok, binary()} | {error, iodata()}) -> {ok, binary()} | {error, iodata()}.
venv({ok, Directory}) ->
    case py_venv:check(Directory) of
        ok -> {ok, filename:absname(Directory)};
        {error, _} = Error -> Error
    end;
venv({error, _} = Error) ->
    Error.

-spec text(term()) -> {ok, binary()} | {error, iodata()}.
text(Value) when is_binary(Value); is_list(Value) ->
    try unicode:characters_to_binary(Value) of
        Text when is_binary(Text) ->
            case binary:match(Text, <<0>>) of
                nomatch -> {ok, Text};
                _ -> {error, "must not contain a zero byte"}
            end;
        _Invalid ->
            {error, "must be valid UTF-8"}
    catch
        error:badarg -> {error, "must be text: a binary or iodata"}
    end;
text(_Value) ->
    {error, "must be text: a binary or iodata"}.

-spec bad(term(), term(), iodata()) -> {error, error()}.
bad(Key, Value, Why) ->
    {error, {bad_option, Key, Value, unicode:characters_to_binary(Why)}}.
